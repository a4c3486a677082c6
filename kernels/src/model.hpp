// A packed model with its cache; one call computes one whole engine step.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache.hpp"
#include "draw.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "plan.hpp"
#include "team.hpp"
#include "variants.hpp"

namespace tuition {

// All tokens of one step; field for field the StepBatch of tuition.engine.batch.
struct Batch {
    const int32_t* token_ids = nullptr;        // [num_tokens]
    const int32_t* positions = nullptr;        // [num_tokens]
    const int32_t* starts = nullptr;           // [num_sequences + 1]
    const int32_t* context_lengths = nullptr;  // [num_sequences]
    const int32_t* block_tables = nullptr;     // [num_sequences][table_width], -1 behind the end
    const int32_t* logit_rows = nullptr;       // [num_wanted], ascending
    int num_tokens = 0, num_sequences = 0, table_width = 0, num_wanted = 0;
    const int32_t* variants = nullptr;  // [num_tokens] slot of the row's variant, -1 for none; null: all none
};

// How far `decode` may go. It ends before that with the step in which a sequence meets one of its stop ids.
struct Burst {
    int num_steps = 1;
    double seconds = 0;                    // no step begins later than this after the first
    const int32_t* stop_starts = nullptr;  // [num_sequences + 1]
    const int32_t* stop_ids = nullptr;     // those of sequence s at stop_starts[s] to stop_starts[s + 1]
    const Sampling* sampling = nullptr;    // [num_sequences]
};

// Tables of positions, [context_length][turning_dim / 2] each; those of kRotatedLocally where a layer has it.
struct Angles {
    const float *cos = nullptr, *sin = nullptr;
    const float *local_cos = nullptr, *local_sin = nullptr;
};

struct Options {
    int num_blocks = 0, block_size = 32, num_threads = 1;
    bool pin = false;
    std::string isa = "auto";
    int rows_apart = 0;  // 16 or more: instead of what Kernels say, for tests
};

enum Phase { kEmbed, kPrepare, kQkv, kStore, kAttend, kOutput, kGateUp, kDown, kHead, kNumPhases };

class Model {
  public:
    // `weights`: packed as Plan(config) says, kept alive by the caller.
    Model(const Config& config, const uint8_t* weights, const Angles& angles, const Options& options);

    // Returns logits [num_wanted][vocab_size], valid until the next call.
    // Throws std::invalid_argument if the batch does not fit the model or the cache.
    const float* step(const Batch& batch);

    // Up to burst.num_steps steps of one row per sequence, the token that each sequence draws being its next
    // input; the tables cover them all. Writes chosen[step][sequence] and returns the number of steps taken:
    // 0 where nothing can be drawn from logits of the first. Throws as `step`.
    int decode(const Batch& batch, const Burst& burst, int32_t* chosen);

    // From any thread: whether `decode` should end with the step at hand.
    void hurry(bool on) { hurry_.store(on, std::memory_order_relaxed); }

    // Between two calls. Returns the variant's slot. Throws std::invalid_argument.
    int add_variant(const std::vector<ThinPair>& pairs);
    void remove_variant(int slot) { changes_.remove(slot); }

    const Config& config() const { return config_; }
    const Kernels& kernels() const { return kernels_; }
    const Cache& cache() const { return cache_; }
    Team& team() { return *team_; }
    bool profiling = false;
    // Thread 0's time by phase, waiting included, while `profiling`. Apart, waiting is met at qkv and attend
    // alone.
    std::array<double, kNumPhases> seconds{};

  private:
    struct Linear {
        Matrix weight;
        int layer = -1;  // and the kind of product in it: where variants find what they add; -1: nothing
        ProductKind kind = kQkvProduct;
    };
    struct Norm {  // weight null: there is none
        const float *weight, *bias;
    };
    struct Layer {
        Norm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, query_norm, key_norm;
        Linear qkv, output, gate_up, down;
        int window, window_kind;  // kind: its place in windows_
        const float *cos, *sin;   // null: nothing turns
    };
    struct Segment {  // rows of one sequence whose positions share a tile of the cache: one thread stores
                      // them
        int sequence, first, last;
    };
    struct Item {  // a piece of attention
        int sequence, row, num_rows,
            head;  // num_rows 0: all heads of a kv head of one row; else one query head of rows
        int span;  // of one row: this span alone (its partial is merged later), or -1: all
        int partial;
    };
    struct Share {  // of a product: its blocks, and its first row
        int64_t first, last;
        int first_row;
        bool interleaved;  // blocks are those of gate and up in turns
    };
    struct Worker {  // what a thread has for itself
        Buffer scratch, attention, normed, hidden_memory, attended_memory, inner_memory, ranks;
        Rows hidden, attended, inner;  // one row, for steps of one token
    };

    Matrix matrix(const std::string& name, const std::string& bias) const;
    const float* vector(const std::string& name) const;
    Norm norm(const std::string& name) const;
    void check(const Batch& batch) const;
    void reserve(int num_rows);
    void reserve_logits(int num_rows);
    void plan_items(const Batch& batch);
    void share_items(const Batch& batch);
    bool is_apart(int num_rows) const;
    std::pair<int, int> rows_of(int num_rows, int thread) const;
    Share share_of(const Linear& linear, int num_rows, int thread) const;
    void settle(int num_rows);
    void work(const Batch& batch, int thread);
    void embed(const Batch& batch, int thread);
    void store_cache(const Batch& batch, const Layer& layer, int index, int thread);
    void store_piece(const Batch& batch, const Layer& layer, int index, const Segment& segment, int kv);
    void attend(const Batch& batch, const Layer& layer, int index, int thread);
    void attend_item(const Batch& batch, const Item& item, int index, Worker& me);
    void attend_spans(SpanOfQueries part, int position, int rows, int window, float* out, int64_t stride,
                      Worker& me);
    void attend_partial(SpanOfQueries part, const Item& item, int first, int position, int window);
    void collect(int row, float* out) const;
    void normalize(const Norm& norm, const float* x, int64_t size, float* out) const;
    Rows& norm_rows(const Norm& norm, const Linear& next, int num_rows, int thread);
    std::pair<int, int> single_owner_rows(int num_rows, int thread) const;
    void norm_heads(const Layer& layer, int num_rows, int thread);
    void join(const Linear& linear, const Rows& left, int num_rows, const Norm& post, int thread);
    Rows& prepare_rows(const Linear& next, Rows& shared, Rows Worker::* own, const float* x, int64_t stride,
                       const int32_t* which, int num_rows, int thread);
    void multiply(const Linear& linear, const Rows& left, int num_rows, float* out, int64_t stride,
                  Ending ending, int thread);
    const LowRank* change_of(const Linear& linear, int row) const;
    void reserve_changes();
    void name_variants(const Batch& batch);
    const uint8_t* first_down(const Linear& linear, int first, int last) const;
    const uint8_t* first_up(const Linear& linear, int first, int last, const Share& share) const;
    float* ranks_of(int num_rows, int thread);
    void shrink(const Linear& linear, const Rows& left, int num_rows, int thread);
    void ask_for_next(const Linear& linear, int num_rows, int thread) const;
    void expand(const Linear& linear, Product& product, int first, int num_rows, int thread);
    void keep_wanted(const Batch& batch, int thread);
    Rows make_rows(int64_t columns, int64_t rows, Buffer& memory) const;

    Config config_;
    const Kernels& kernels_;
    Plan plan_;
    const uint8_t* weights_;
    const int rows_apart_;      // see Kernels
    const bool apart_at_once_;  // however uneven the shares, for tests
    const bool from_memory_;    // the weights, because they are more than caches hold
    std::vector<Layer> layers_;
    std::vector<int> windows_;  // those of the layers, each once
    Matrix embedding_, positions_;
    Linear head_;
    Variants changes_;
    Norm final_norm_;
    Ending activation_;
    float attention_scale_;
    std::vector<float> cos_[2], sin_[2];  // of each kind of rotation
    Cache cache_;
    Buffer cache_memory_;
    std::unique_ptr<Team> team_;
    std::vector<Worker> workers_;
    std::vector<DrawSpace> draw_spaces_;  // [thread]

    int capacity_ = 0;  // rows that the buffers below hold
    int64_t hidden_stride_, query_stride_, mlp_stride_, qkv_stride_;
    Buffer x_, result_, qkv_, attended_, inner_, queries_, query_halves_, logits_, hidden_memory_,
        attended_memory_, inner_memory_;
    std::vector<Buffer> retired_logits_;  // each at most half of the next
    Rows hidden_rows_, attended_rows_, inner_rows_;
    std::vector<Segment> segments_;
    std::vector<Item> items_;
    bool fused_ = false;  // each item stores its own key and value: no barrier between
    std::vector<std::vector<int>>
        shares_;  // [window kind][thread + 1] of the items then: where those of a thread begin
    std::vector<int> first_partial_;        // [row], -1: its attention is already whole
    std::vector<int> sequence_of_;          // [row]
    const int32_t* variants_ = nullptr;     // [row] of the step at hand; null: no row has one
    std::vector<int32_t> wanted_variants_;  // of the rows whose logits are wanted
    int64_t rank_stride_ = 0, added_stride_;
    Buffer ranks_, added_;  // of all rows: down x, and up (down x)
    Buffer partial_sums_, partial_scales_;
    alignas(64) std::atomic<int> next_item_{0};
    std::atomic<bool> hurry_{false};
};

}  // namespace tuition

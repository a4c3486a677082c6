// Which packed parts a model has and where each lies in one buffer. Known to the packer and the runner alike.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "layout.hpp"

namespace tuition {

enum class NormKind { rms, layer };
enum class NormPlace { before, after, both };
enum class QkNormSpan { head, all_heads };
enum class Activation { silu, gelu };
enum Rotation : int { kUnrotated = 0, kRotated = 1, kRotatedLocally = 2 };

struct Config {
    int64_t vocab_size = 0, hidden_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0,
            mlp_size = 0, context_length = 0;
    bool tied_head = true, qk_norm = false, qkv_bias = false, output_bias = false, mlp_bias = false;
    float norm_eps = 1e-5f;
    std::vector<int> windows;  // per layer: keys a query sees, 0 for all
    Format format = Format::float32;
    Format head_format = Format::float32;  // embedding and output head
    // What Llama does not have; see ModelShape of tuition.spec.shape.
    NormKind norm = NormKind::rms;
    NormPlace norm_place = NormPlace::before;
    QkNormSpan qk_norm_span = QkNormSpan::head;
    Activation activation = Activation::silu;
    bool gated_mlp = true, learned_positions = false;
    float attention_scale = 0;  // 0: 1 / sqrt(head_dim)
    float embedding_scale = 1, residual_scale = 1;
    int64_t rotary_dim = 0;      // first dimensions of a head that turn; 0: all
    std::vector<int> rotations;  // per layer; empty: every layer turns by the first table

    int64_t query_size() const { return num_heads * head_dim; }
    int64_t kv_size() const { return num_kv_heads * head_dim; }
    int64_t qkv_size() const { return query_size() + 2 * kv_size(); }
    int64_t gate_up_size() const { return (gated_mlp ? 2 : 1) * round_up(mlp_size, kBlockRows); }
    std::string gate_up_name() const { return gated_mlp ? "gate_up" : "up"; }
    int64_t turning_dim() const { return rotary_dim > 0 ? rotary_dim : head_dim; }
    int rotation(int64_t layer) const {
        return learned_positions   ? kUnrotated
               : rotations.empty() ? kRotated
                                   : rotations[static_cast<size_t>(layer)];
    }

    // Throws std::invalid_argument with the reason if these kernels cannot run the model.
    void check() const;
};

// One matrix, or one vector of floats (columns = 0), inside the buffer.
struct Part {
    std::string name;
    Format format = Format::float32;
    int64_t rows = 0, columns = 0;
    int64_t offset = 0, bytes = 0;
};

struct Plan {
    std::vector<Part> parts;
    std::map<std::string, size_t> index;
    int64_t bytes = 0;

    explicit Plan(const Config& config);
    const Part& at(const std::string& name) const { return parts.at(index.at(name)); }
    bool has(const std::string& name) const { return index.count(name) > 0; }

  private:
    void add(const std::string& name, Format format, int64_t rows, int64_t columns);
    void add_vector(const std::string& name, int64_t size) { add(name, Format::float32, size, 0); }
    void add_norm(const Config& config, const std::string& name, int64_t size);
};

}  // namespace tuition

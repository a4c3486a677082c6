#include "model.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "cpuid.hpp"

namespace tuition {
namespace {

constexpr int kRowPadding = 32;            // tiles read whole groups of 16 or 32 rows
constexpr int64_t kCacheBytes = 32 << 20;  // more weights than this come from memory at every step

[[noreturn]] void refuse(const std::string& what, int64_t got, const std::string& wanted) {
    throw std::invalid_argument(what + ": got " + std::to_string(got) + ", wanted " + wanted);
}

}  // namespace

Model::Model(const Config& config, const uint8_t* weights, const Angles& angles, const Options& options)
    : config_(config),
      kernels_(choose_kernels(options.isa)),
      plan_(config),
      weights_(weights),
      rows_apart_(options.rows_apart > 0 ? options.rows_apart : kernels_.rows_apart),
      apart_at_once_(options.rows_apart > 0),
      from_memory_(plan_.bytes > kCacheBytes),
      changes_(config) {
    if (options.num_threads < 1 || options.num_threads > 1024)
        refuse("num_threads", options.num_threads, "1 to 1024");
    if (options.num_blocks < 1) refuse("num_blocks", options.num_blocks, "at least 1");
    if (options.block_size < kKeyTile || options.block_size % kKeyTile || options.block_size > 4096)
        refuse("block_size", options.block_size, "a multiple of 32 up to 4096");
    if (options.rows_apart != 0 && options.rows_apart < 16)
        refuse("rows_apart", options.rows_apart, "0, or at least a tile of 16 rows");
    const Config& c = config_;
    activation_ = c.gated_mlp ? (c.activation == Activation::gelu ? Ending::gate_gelu : Ending::gate_silu)
                              : Ending::gelu;
    attention_scale_ =
        c.attention_scale > 0 ? c.attention_scale : 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    const int64_t turns = c.context_length * (c.turning_dim() / 2);
    const float* tables[2][2] = {{angles.cos, angles.sin}, {angles.local_cos, angles.local_sin}};
    for (int kind = 0; kind < 2; ++kind) {
        if (tables[kind][0] == nullptr) continue;
        cos_[kind].assign(tables[kind][0], tables[kind][0] + turns);
        sin_[kind].assign(tables[kind][1], tables[kind][1] + turns);
        cos_[kind].resize(static_cast<size_t>(turns + 16));  // vector loads may look behind the end
        sin_[kind].resize(static_cast<size_t>(turns + 16));
    }
    for (int64_t i = 0; i < c.num_layers; ++i) {
        const int window = c.windows[static_cast<size_t>(i)];
        const auto kind = std::find(windows_.begin(), windows_.end(), window) - windows_.begin();
        if (kind == static_cast<long>(windows_.size())) windows_.push_back(window);
        const std::string at = "layers." + std::to_string(i) + ".";
        auto linear = [this, i, &at](const std::string& name, ProductKind product) {
            return Linear{matrix(at + name, at + name + "_bias"), static_cast<int>(i), product};
        };
        const int rotation = c.rotation(i);
        if (rotation != kUnrotated && cos_[rotation - 1].empty())
            refuse("rotations", rotation, "a kind whose angles were given");
        layers_.push_back({norm(at + "attention_norm"), norm(at + "attention_post_norm"),
                           norm(at + "mlp_norm"), norm(at + "mlp_post_norm"), norm(at + "query_norm"),
                           norm(at + "key_norm"), linear("qkv", kQkvProduct),
                           linear("output", kOutputProduct), linear(c.gate_up_name(), kGateUpProduct),
                           linear("down", kDownProduct), window, static_cast<int>(kind),
                           rotation == kUnrotated ? nullptr : cos_[rotation - 1].data(),
                           rotation == kUnrotated ? nullptr : sin_[rotation - 1].data()});
    }
    head_.weight = matrix("head", "");
    embedding_ = c.tied_head ? head_.weight : matrix("embedding", "");
    if (c.learned_positions) positions_ = matrix("positions", "");
    final_norm_ = norm("norm");

    cache_.half = c.format != Format::float32;
    cache_.num_layers = static_cast<int>(c.num_layers),
    cache_.num_kv_heads = static_cast<int>(c.num_kv_heads);
    cache_.num_blocks = options.num_blocks, cache_.block_size = options.block_size;
    cache_.head_dim = static_cast<int>(round_up(c.head_dim, 32));
    cache_memory_ = Buffer(cache_.bytes());
    cache_.data = cache_memory_.data();

    hidden_stride_ = round_up(c.hidden_size, 64), query_stride_ = round_up(c.query_size(), 64);
    mlp_stride_ = round_up(c.mlp_size, 64), qkv_stride_ = round_up(c.qkv_size(), 64);
    // Odd in lines, so that the same columns of many rows do not meet in one set of the first cache.
    added_stride_ = std::max({hidden_stride_, qkv_stride_, round_up(c.gate_up_size(), 64)}) + 16;
    team_ = std::make_unique<Team>(options.num_threads, options.pin);
    const int64_t widest = std::max({hidden_stride_, query_stride_, mlp_stride_});
    for (int thread = 0; thread < options.num_threads; ++thread) {
        Worker worker;
        worker.scratch = Buffer(product_scratch_bytes(widest));
        worker.attention = Buffer(4 * (attention_scratch_floats() + 2 * 16 * int64_t{cache_.head_dim}));
        worker.normed = Buffer(4 * widest);
        worker.hidden = make_rows(hidden_stride_, 1, worker.hidden_memory);
        worker.attended = make_rows(query_stride_, 1, worker.attended_memory);
        worker.inner = make_rows(mlp_stride_, 1, worker.inner_memory);
        workers_.push_back(std::move(worker));
    }
    reserve(64);
}

Matrix Model::matrix(const std::string& name, const std::string& bias) const {
    const Part& part = plan_.at(name);
    return {part.format, part.rows, part.columns, weights_ + part.offset,
            bias.empty() ? nullptr : vector(bias)};
}

const float* Model::vector(const std::string& name) const {
    return plan_.has(name) ? reinterpret_cast<const float*>(weights_ + plan_.at(name).offset) : nullptr;
}

Model::Norm Model::norm(const std::string& name) const { return {vector(name), vector(name + "_bias")}; }

Rows Model::make_rows(int64_t columns, int64_t rows, Buffer& memory) const {
    const bool integer = is_integer(config_.format) || is_integer(config_.head_format);
    const bool half = config_.format == Format::bf16 || config_.head_format == Format::bf16;
    const bool full = config_.format == Format::float32 || config_.head_format == Format::float32 || half;
    const int64_t groups = integer ? rows * columns / kGroup * 4 : 0;
    const int64_t sizes[] = {full ? rows * columns * 4 : 0,
                             round_up(rows, 16) * columns *
                                 (half      ? 2
                                  : integer ? 1
                                            : 0),
                             groups, groups};
    int64_t total = 0;
    for (int64_t size : sizes) total += round_up(size, kLine);
    memory = Buffer(total);
    uint8_t* at = memory.data();
    auto take = [&at](int64_t size) { return std::exchange(at, at + round_up(size, kLine)); };
    Rows made;
    made.columns = columns;
    made.values = reinterpret_cast<float*>(take(sizes[0]));
    made.tiles = take(sizes[1]);
    made.sums = reinterpret_cast<int32_t*>(take(sizes[2]));
    made.scales = reinterpret_cast<float*>(take(sizes[3]));
    return made;
}

void Model::reserve(int num_rows) {
    if (num_rows <= capacity_) return;
    capacity_ = static_cast<int>(round_up(num_rows, 64));
    const int64_t rows = capacity_ + kRowPadding;
    x_ = Buffer(rows * hidden_stride_ * 4);
    if (config_.norm_place != NormPlace::before) result_ = Buffer(rows * hidden_stride_ * 4);
    qkv_ = Buffer(rows * qkv_stride_ * 4);
    attended_ = Buffer(rows * query_stride_ * 4);
    inner_ = Buffer(rows * mlp_stride_ * 4);
    queries_ = Buffer(rows * config_.num_heads * cache_.head_dim * 4);
    query_halves_ = Buffer(rows * config_.num_heads * cache_.head_dim * 2);
    hidden_rows_ = make_rows(hidden_stride_, rows, hidden_memory_);
    attended_rows_ = make_rows(query_stride_, rows, attended_memory_);
    inner_rows_ = make_rows(mlp_stride_, rows, inner_memory_);
    reserve_changes();
}

void Model::check(const Batch& b) const {
    if (b.num_tokens < 1) refuse("token_ids", b.num_tokens, "at least one token");
    if (b.num_sequences < 1) refuse("starts", b.num_sequences, "at least one sequence");
    if (b.starts[0] != 0 || b.starts[b.num_sequences] != b.num_tokens)
        refuse("starts", b.starts[b.num_sequences], "0 first and " + std::to_string(b.num_tokens) + " last");
    for (int s = 0; s < b.num_sequences; ++s) {
        const int64_t rows = int64_t{b.starts[s + 1]} - b.starts[s], context = b.context_lengths[s];
        if (rows < 1 || b.starts[s + 1] > b.num_tokens)
            refuse("starts", b.starts[s + 1], "ascending, one row or more each");
        if (context < 0 || context + rows > config_.context_length)
            refuse("context_lengths", context,
                   "0 or more, and with its new tokens at most " + std::to_string(config_.context_length));
        const int64_t blocks = (context + rows + cache_.block_size - 1) / cache_.block_size;
        if (blocks > b.table_width)
            refuse("block_tables", b.table_width, std::to_string(blocks) + " columns");
        for (int64_t i = 0; i < blocks; ++i) {
            const int block = b.block_tables[int64_t{s} * b.table_width + i];
            if (block < 0 || block >= cache_.num_blocks)
                refuse("block_tables", block, "blocks below " + std::to_string(cache_.num_blocks));
        }
        for (int row = b.starts[s]; row < b.starts[s + 1]; ++row)
            if (b.positions[row] != context + row - b.starts[s])
                refuse("positions", b.positions[row], std::to_string(context + row - b.starts[s]));
    }
    for (int row = 0; row < b.num_tokens; ++row)
        if (b.token_ids[row] < 0 || b.token_ids[row] >= config_.vocab_size)
            refuse("token_ids", b.token_ids[row], "0 to " + std::to_string(config_.vocab_size - 1));
    for (int i = 0; i < b.num_wanted; ++i)
        if (b.logit_rows[i] < 0 || b.logit_rows[i] >= b.num_tokens ||
            (i > 0 && b.logit_rows[i] <= b.logit_rows[i - 1]))
            refuse("logit_rows", b.logit_rows[i], "ascending rows below " + std::to_string(b.num_tokens));
    for (int row = 0; b.variants != nullptr && row < b.num_tokens; ++row)
        if (b.variants[row] != -1 && !changes_.has(b.variants[row]))
            refuse("variants", b.variants[row], "-1, or the slot of a variant");
}

void Model::reserve_logits(int num_rows) {
    const int64_t bytes = int64_t{num_rows} * config_.vocab_size * 4;
    if (bytes <= logits_.bytes()) return;
    Buffer larger(std::max(bytes, 2 * logits_.bytes()));
    std::swap(logits_, larger);
    retired_logits_.push_back(
        std::move(larger));  // whoever still holds the array of an earlier step may read it, if not trust it
}

const float* Model::step(const Batch& batch) {
    check(batch);
    reserve(batch.num_tokens);
    reserve_logits(batch.num_wanted);
    plan_items(batch);
    name_variants(batch);
    team_->run([this, &batch](int thread) {
        kernels_.enter();
        work(batch, thread);
        kernels_.leave();
    });
    return logits_.as<float>();
}

// Few rows: each thread computes a share of the columns of every product, and reads that share of the weights
// alone. Many rows (`is_apart`): each takes rows of its own through norms and products, of which others need
// nothing but keys and values; so there are few barriers, and few of the lines that one core writes have to
// come to another.
void Model::work(const Batch& batch, int thread) {
    auto last = std::chrono::steady_clock::now();
    auto mark = [this, thread, &last](Phase phase) {
        if (!profiling || thread != 0) return;
        const auto now = std::chrono::steady_clock::now();
        seconds[phase] += std::chrono::duration<double>(now - last).count();
        last = now;
    };
    int rows = batch.num_tokens;
    embed(batch, thread);
    settle(rows);
    mark(kEmbed);
    for (size_t i = 0; i < layers_.size(); ++i) {
        const Layer& layer = layers_[i];
        const bool final = i + 1 == layers_.size();
        const Rows& normed = norm_rows(layer.attention_norm, layer.qkv, rows, thread);
        mark(kPrepare);
        multiply(layer.qkv, normed, rows, qkv_.as<float>(), qkv_stride_, Ending::store, thread);
        team_->wait();
        if (config_.qk_norm && config_.qk_norm_span == QkNormSpan::all_heads) {
            norm_heads(layer, rows, thread);
            team_->wait();
        }
        mark(kQkv);
        if (!fused_) {
            store_cache(batch, layer, static_cast<int>(i), thread);
            if (thread == 0) next_item_.store(0, std::memory_order_relaxed);
            team_->wait();
            mark(kStore);
            if (final && batch.num_wanted == 0) return;  // the cache is all that was asked for
        }
        attend(batch, layer, static_cast<int>(i), thread);
        team_->wait();
        mark(kAttend);
        const int32_t* which = nullptr;
        if (final && batch.num_wanted < rows) {  // behind the last attention only rows with logits matter
            keep_wanted(batch, thread);
            which = batch.logit_rows, rows = batch.num_wanted;
        }
        const Rows& attended =
            prepare_rows(layer.output, attended_rows_, &Worker::attended, nullptr, 0, which, rows, thread);
        mark(kPrepare);
        join(layer.output, attended, rows, layer.attention_post_norm, thread);
        mark(kOutput);
        const Rows& again = norm_rows(layer.mlp_norm, layer.gate_up, rows, thread);
        mark(kPrepare);
        multiply(layer.gate_up, again, rows, inner_.as<float>(), mlp_stride_, activation_, thread);
        settle(rows);
        mark(kGateUp);
        const Rows& inner = prepare_rows(layer.down, inner_rows_, &Worker::inner, inner_.as<float>(),
                                         mlp_stride_, nullptr, rows, thread);
        mark(kPrepare);
        join(layer.down, inner, rows, layer.mlp_post_norm, thread);
        mark(kDown);
    }
    const Rows& normed = norm_rows(final_norm_, head_, rows, thread);
    mark(kPrepare);
    multiply(head_, normed, rows, logits_.as<float>(), config_.vocab_size, Ending::store, thread);
    mark(kHead);
}

// Whether each thread takes rows of its own through the products: there are enough, and whole tiles share out
// evenly.
bool Model::is_apart(int num_rows) const {
    const int64_t size = team_->size(), most = (round_up(num_rows, 16) / 16 + size - 1) / size * 16;
    if (size == 1 || num_rows < rows_apart_ * size) return false;
    return apart_at_once_ || most * size * 20 <= int64_t{num_rows} * 23;
}

// Rows that a thread prepares: neighbours, since what is written beside them shares lines of the cache.
// Apart, they are whole tiles. A step of one row is prepared by every thread for itself, which is cheaper
// than a barrier.
std::pair<int, int> Model::rows_of(int num_rows, int thread) const {
    if (num_rows == 1) return {0, 1};
    const int64_t size = team_->size(), unit = is_apart(num_rows) ? 16 : 1,
                  units = (num_rows + unit - 1) / unit;
    return {static_cast<int>(units * thread / size * unit),
            static_cast<int>(std::min<int64_t>(num_rows, units * (thread + 1) / size * unit))};
}

// A barrier, where what follows reads what others have written of these rows.
void Model::settle(int num_rows) {
    if (!is_apart(num_rows)) team_->wait();
}

// Move rows whose logits are wanted to the front of the residual stream.
void Model::keep_wanted(const Batch& batch, int thread) {
    if (thread == 0)
        for (int i = 0; i < batch.num_wanted; ++i)
            if (batch.logit_rows[i] != i)
                std::memcpy(x_.as<float>() + i * hidden_stride_,
                            x_.as<float>() + batch.logit_rows[i] * hidden_stride_,
                            static_cast<size_t>(hidden_stride_) * 4);
    if (thread == 0 && variants_ != nullptr) variants_ = wanted_variants_.data();
    team_->wait();
}

// `x` null: the result of attention, of rows `which` (null: all), collected from its spans on the way.
Rows& Model::prepare_rows(const Linear& next, Rows& shared, Rows Worker::* own, const float* x,
                          int64_t stride, const int32_t* which, int num_rows, int thread) {
    Worker& me = workers_[static_cast<size_t>(thread)];
    Rows& rows = num_rows == 1 ? me.*own : shared;
    const auto [first, last] = rows_of(num_rows, thread);
    for (int row = first; row < last; ++row) {
        const float* source = x + row * stride;
        if (x == nullptr) {
            const int from = which == nullptr ? row : which[row];
            source = attended_.as<float>() + from * query_stride_;
            if (first_partial_[static_cast<size_t>(from)] >= 0)
                collect(from, me.normed.as<float>()), source = me.normed.as<float>();
        }
        kernels_.prepare(source, static_cast<int>(round_up(next.weight.columns, 16)), next.weight.format,
                         rows, row, num_rows == 1);
    }
    shrink(next, rows, num_rows, thread);
    if (num_rows > 1) settle(num_rows);
    return rows;
}

// Apart: all blocks for the rows of this thread. Else some of the blocks for all rows.
Model::Share Model::share_of(const Linear& linear, int num_rows, int thread) const {
    const bool interleaved = linear.kind == kGateUpProduct && config_.gated_mlp && linear.layer >= 0;
    const int64_t blocks = linear.weight.num_blocks();
    if (is_apart(num_rows)) return {0, blocks, rows_of(num_rows, thread).first, interleaved};
    const int64_t unit = interleaved ? 2 : 1, units = blocks / unit, size = team_->size();
    return {units * thread / size * unit, units * (thread + 1) / size * unit, 0, interleaved};
}

void Model::multiply(const Linear& linear, const Rows& left, int num_rows, float* out, int64_t stride,
                     Ending ending, int thread) {
    const Matrix& weight = linear.weight;
    const Share share = share_of(linear, num_rows, thread);
    const bool apart = is_apart(num_rows);
    const Rows own = apart ? left.from(share.first_row, weight.format) : left;
    Product product{&weight,
                    &own,
                    apart ? rows_of(num_rows, thread).second - share.first_row : num_rows,
                    out + share.first_row * stride,
                    stride,
                    ending,
                    share.first,
                    share.last,
                    workers_[static_cast<size_t>(thread)].scratch.data(),
                    from_memory_};
    product.scale = config_.residual_scale;
    expand(linear, product, share.first_row, num_rows, thread);
    kernels_.multiply(product);
    ask_for_next(linear, num_rows, thread);
}

}  // namespace tuition

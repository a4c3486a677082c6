// The part of Model that stores keys and values and attends over them.
#include <algorithm>
#include <cmath>

#include "model.hpp"

namespace tuition {
namespace {

constexpr int kQueries = 16;   // that attention takes at once
constexpr int kItemKeys = 64;  // what an item of one row costs beside its keys, as keys
constexpr int kRowsTogether =
    2;  // rows of one sequence from which they share a pass over the keys; the bits are the same

int lowest_key(int window, int position) {
    return window > 0 && position + 1 > window ? position + 1 - window : 0;
}

}  // namespace

// Cut the step into segments to store and items to attend; the same for every layer.
void Model::plan_items(const Batch& batch) {
    segments_.clear();
    items_.clear();
    first_partial_.assign(static_cast<size_t>(batch.num_tokens), -1);
    const int kv_heads = static_cast<int>(config_.num_kv_heads), heads = static_cast<int>(config_.num_heads);
    const bool split =
        batch.num_tokens * kv_heads < 4 * team_->size();  // too few rows to keep all threads busy
    int partials = 0;
    for (int s = 0; s < batch.num_sequences; ++s) {
        const int first = batch.starts[s], last = batch.starts[s + 1];
        for (int row = first; row < last;) {
            const int room = kKeyTile - batch.positions[row] % kKeyTile, stop = std::min(last, row + room);
            segments_.push_back({s, row, stop});
            row = stop;
        }
        if (!split && last - first >= kRowsTogether) {
            for (int row = (last - first - 1) / kQueries * kQueries + first; row >= first;
                 row -= kQueries)  // the longest first
                for (int head = 0; head < heads; ++head)
                    items_.push_back({s, row, std::min(kQueries, last - row), head, -1, -1});
            continue;
        }
        for (int row = first; row < last; ++row) {
            const int spans = batch.positions[row] / kSpan + 1;
            if (!split || spans == 1) {
                for (int head = 0; head < kv_heads; ++head) items_.push_back({s, row, 0, head, -1, -1});
                continue;
            }
            first_partial_[static_cast<size_t>(row)] = partials;
            for (int head = 0; head < kv_heads; ++head)
                for (int span = 0; span < spans; ++span)
                    items_.push_back({s, row, 0, head, span, partials++});
        }
    }
    fused_ = batch.num_sequences == batch.num_tokens && partials == 0;
    if (fused_) share_items(batch);
    const int64_t group = config_.num_heads / config_.num_kv_heads;
    if (partials * group * cache_.head_dim * 4 > partial_sums_.bytes()) {
        partial_sums_ = Buffer(partials * group * cache_.head_dim * 8);
        partial_scales_ = Buffer(partials * group * 2 * 8);
    }
}

// Neighbouring items to each thread, as many keys to each: heads of one row meet in one cache, and so do they
// with those who prepare that row. Layers that see other numbers of keys are shared out otherwise.
void Model::share_items(const Batch& batch) {
    const int64_t size = team_->size();
    shares_.resize(windows_.size());
    for (size_t kind = 0; kind < windows_.size(); ++kind) {
        const auto cost = [&batch, window = windows_[kind]](const Item& item) {
            const int position = batch.positions[item.row];
            return int64_t{position} + 1 - lowest_key(window, position) + kItemKeys;
        };
        std::vector<int>& starts = shares_[kind];
        int64_t total = 0, passed = 0, thread = 0;
        for (const Item& item : items_) total += cost(item);
        starts.assign(static_cast<size_t>(size) + 1, static_cast<int>(items_.size()));
        starts[0] = 0;
        for (size_t i = 0; i < items_.size(); ++i) {  // whose share holds the middle of an item has it
            const int64_t own = cost(items_[i]), owner = (2 * passed + own) * size / (2 * total);
            while (thread < owner) starts[static_cast<size_t>(++thread)] = static_cast<int>(i);
            passed += own;
        }
    }
}

// Neighbouring pieces to each thread, as many rows to each.
void Model::store_cache(const Batch& batch, const Layer& layer, int index, int thread) {
    const int64_t kv_heads = config_.num_kv_heads, size = team_->size(), total = batch.num_tokens * kv_heads;
    int64_t passed = 0;
    for (const Segment& segment : segments_) {
        const int64_t rows = segment.last - segment.first;
        for (int head = 0; head < kv_heads; ++head, passed += rows)
            if ((2 * passed + rows) * size / (2 * total) == thread)
                store_piece(batch, layer, index, segment, head);
    }
}

// Rotate the queries, keys and values of one kv head, rows of one segment; store the last two.
void Model::store_piece(const Batch& batch, const Layer& layer, int index, const Segment& segment, int kv) {
    const Config& c = config_;
    const int dim = static_cast<int>(c.head_dim), padded = cache_.head_dim;
    const int group = static_cast<int>(c.num_heads / c.num_kv_heads);
    const int turning = static_cast<int>(c.turning_dim());
    const bool alone = c.qk_norm && c.qk_norm_span == QkNormSpan::head;
    for (int row = segment.first; row < segment.last; ++row) {
        const int position = batch.positions[row];
        const int64_t turn = int64_t{position} * (turning / 2);
        float* qkv = qkv_.as<float>() + row * qkv_stride_;
        for (int head = kv * group; head < (kv + 1) * group; ++head) {
            float* query = qkv + head * dim;
            if (alone) normalize(layer.query_norm, query, dim, query);
            if (layer.cos != nullptr) kernels_.rotate(query, layer.cos + turn, layer.sin + turn, turning);
            const int64_t at = (row * c.num_heads + head) * padded;
            kernels_.scale_query(query, attention_scale_, dim, padded, queries_.as<float>() + at,
                                 cache_.half ? query_halves_.as<uint16_t>() + at : nullptr);
        }
        float* key = qkv + c.query_size() + kv * dim;
        const float* value = qkv + c.query_size() + c.kv_size() + kv * dim;
        if (alone) normalize(layer.key_norm, key, dim, key);
        if (layer.cos != nullptr) kernels_.rotate(key, layer.cos + turn, layer.sin + turn, turning);
        const int block =
            batch.block_tables[int64_t{segment.sequence} * batch.table_width + position / cache_.block_size];
        kernels_.store_key(cache_, index, block, kv, position % cache_.block_size, key, dim);
        kernels_.store_value(cache_, index, block, kv, position % cache_.block_size, value, dim);
    }
}

// A step of decodes alone: whoever attends over a kv head of a sequence has stored its new key and value just
// before. The shares are fixed then, since the counter of items could only be set back at a barrier.
void Model::attend(const Batch& batch, const Layer& layer, int index, int thread) {
    Worker& me = workers_[static_cast<size_t>(thread)];
    const int count = static_cast<int>(items_.size());
    if (fused_) {
        const std::vector<int>& starts = shares_[static_cast<size_t>(layer.window_kind)];
        for (int i = starts[static_cast<size_t>(thread)]; i < starts[static_cast<size_t>(thread) + 1]; ++i) {
            const Item& item = items_[static_cast<size_t>(i)];
            store_piece(batch, layer, index, {item.sequence, item.row, item.row + 1}, item.head);
            attend_item(batch, item, index, me);
        }
        return;
    }
    for (int i = next_item_.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next_item_.fetch_add(1, std::memory_order_relaxed)) {
        attend_item(batch, items_[static_cast<size_t>(i)], index, me);
    }
}

void Model::attend_item(const Batch& batch, const Item& item, int index, Worker& me) {
    const int group = static_cast<int>(config_.num_heads / config_.num_kv_heads), dim = cache_.head_dim;
    const int position = batch.positions[item.row], window = layers_[static_cast<size_t>(index)].window;
    const int head = item.num_rows > 0 ? item.head : item.head * group;
    const int64_t at = (item.row * config_.num_heads + head) * dim;
    SpanOfQueries part;
    part.cache = &cache_, part.layer = index, part.kv_head = head / group;
    part.table = batch.block_tables + int64_t{item.sequence} * batch.table_width;
    part.queries = queries_.as<float>() + at, part.halves = query_halves_.as<uint16_t>() + at;
    part.sum_stride = dim, part.scratch = me.attention.as<float>();
    float* out = attended_.as<float>() + item.row * query_stride_ + head * config_.head_dim;
    if (item.num_rows > 0) {
        part.query_stride = config_.num_heads * dim, part.num_queries = item.num_rows;
        return attend_spans(part, position, 1, window, out, query_stride_, me);
    }
    part.query_stride = dim;
    for (int first = 0; first < group;
         first += kQueries, part.queries += kQueries * dim, part.halves += kQueries * dim) {
        part.num_queries = std::min(kQueries, group - first);
        if (item.span >= 0)
            attend_partial(part, item, first, position, window);
        else
            attend_spans(part, position, 0, window, out + first * config_.head_dim, config_.head_dim, me);
    }
}

// All spans, in order. Query q is that of position `position` + q * `rows`.
void Model::attend_spans(SpanOfQueries part, int position, int rows, int window, float* out, int64_t stride,
                         Worker& me) {
    const int dim = cache_.head_dim, count = part.num_queries, last = position + (count - 1) * rows;
    int lows[kQueries], highs[kQueries];
    float peaks[kQueries], masses[kQueries] = {}, span_peaks[kQueries], span_masses[kQueries];
    float* total = me.attention.as<float>() + attention_scratch_floats();  // [kQueries][dim]
    part.lows = lows, part.highs = highs, part.peaks = span_peaks, part.masses = span_masses,
    part.sums = total + kQueries * dim;
    for (int span = lowest_key(window, position) / kSpan * kSpan; span <= last; span += kSpan) {
        for (int q = 0; q < count; ++q) {
            lows[q] = std::max(span, lowest_key(window, position + q * rows));
            highs[q] = std::min(span + kSpan, position + q * rows + 1);
        }
        part.begin = lows[0] / kKeyTile * kKeyTile,
        part.end = static_cast<int>(round_up(highs[count - 1], kKeyTile));
        kernels_.attend_span(part);
        for (int q = 0; q < count; ++q) {
            const float* sums = part.sums + q * dim;
            if (span_masses[q] == 0.0f) continue;  // no keys of this span
            if (masses[q] != 0.0f) {
                kernels_.merge_span(total + q * dim, peaks + q, masses + q, sums, span_peaks[q],
                                    span_masses[q], dim);
            } else {
                peaks[q] = span_peaks[q], masses[q] = span_masses[q];
                std::copy(sums, sums + dim, total + q * dim);
            }
        }
    }
    for (int q = 0; q < count; ++q)
        kernels_.divide(total + q * dim, masses[q], static_cast<int>(config_.head_dim), out + q * stride);
}

// One span alone, into the buffers of partial results; `first` of the kv head's queries is the first of
// `part`.
void Model::attend_partial(SpanOfQueries part, const Item& item, int first, int position, int window) {
    const int group = static_cast<int>(config_.num_heads / config_.num_kv_heads);
    int lows[kQueries], highs[kQueries];
    std::fill(lows, lows + kQueries, std::max(lowest_key(window, position), item.span * kSpan));
    std::fill(highs, highs + kQueries, std::min(position + 1, (item.span + 1) * kSpan));
    part.lows = lows, part.highs = highs;
    part.begin = lows[0] / kKeyTile * kKeyTile, part.end = static_cast<int>(round_up(highs[0], kKeyTile));
    part.sums = partial_sums_.as<float>() + (int64_t{item.partial} * group + first) * cache_.head_dim;
    part.peaks = partial_scales_.as<float>() + int64_t{item.partial} * group * 2 + first,
    part.masses = part.peaks + group;
    if (lows[0] < highs[0]) return kernels_.attend_span(part);
    std::fill(part.masses, part.masses + part.num_queries, 0.0f);  // behind the window
}

// Merge the partial results of one row's spans, in order, and divide.
void Model::collect(int row, float* out) const {
    const int group = static_cast<int>(config_.num_heads / config_.num_kv_heads), dim = cache_.head_dim;
    int partial = first_partial_[static_cast<size_t>(row)];
    // The items of this row lie together; each kv head has one per span, so a head ends where the next
    // begins.
    int spans = 0;
    for (const Item& item : items_)
        if (item.num_rows == 0 && item.row == row && item.head == 0 && item.span >= 0) ++spans;
    for (int64_t kv = 0; kv < config_.num_kv_heads; ++kv, partial += spans) {
        for (int q = 0; q < group; ++q) {
            float total[1024 + 32], peak = 0, mass = 0;
            bool begun = false;
            for (int i = partial; i < partial + spans; ++i) {
                const float* sums = partial_sums_.as<float>() + (int64_t{i} * group + q) * dim;
                const float* scales = partial_scales_.as<float>() + int64_t{i} * group * 2;
                if (scales[group + q] == 0.0f) continue;
                if (begun) {
                    kernels_.merge_span(total, &peak, &mass, sums, scales[q], scales[group + q], dim);
                } else {
                    begun = true, peak = scales[q], mass = scales[group + q];
                    std::copy(sums, sums + dim, total);
                }
            }
            kernels_.divide(total, mass, static_cast<int>(config_.head_dim),
                            out + (kv * group + q) * config_.head_dim);
        }
    }
}

}  // namespace tuition

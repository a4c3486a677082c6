// Attention of one row over one span of keys, on vector units; and how spans are merged.
//
// With a bf16 cache the sums run exactly as on matrix tiles (see product_float.hpp), so that a token gets the same bits
// whether it came alone (here) or within a chunk of a prompt (attention_tiles.hpp). Spans begin at multiples of kSpan
// whatever the chunk; each has its own softmax peak and is merged into the total in order.
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

inline void store_key(const Cache& cache, int layer, int block, int head, int offset, const float* key, int head_dim) {
    uint8_t* base = cache.keys(layer, block, head) + int64_t{offset / 16} * 16 * cache.head_dim * cache.value_bytes();
    const int lane = offset % 16;
    if (!cache.half) {
        float* keys = reinterpret_cast<float*>(base);
        for (int i = 0; i < head_dim; ++i) keys[i * 16 + lane] = key[i];
        return;
    }
    for (int i = 0; i < head_dim; i += 16) {
        uint16_t half[16];
        store_bf16(half, load(key + i));
        for (int j = 0; j < 8; ++j) std::memcpy(base + (i / 2 + j) * kLine + lane * 4, half + 2 * j, 4);
    }
}

inline void store_value(const Cache& cache, int layer, int block, int head, int offset, const float* value, int head_dim) {
    uint8_t* base = cache.values(layer, block, head);
    if (offset % kKeyTile == 0) {   // what an earlier owner of the block left must not meet a weight of zero as NaN
        const int64_t tile = int64_t{kKeyTile} * cache.head_dim * cache.value_bytes();
        std::memset(base + offset / kKeyTile * tile, 0, static_cast<size_t>(tile));
    }
    if (!cache.half) {
        float* values = reinterpret_cast<float*>(base) + int64_t{offset} * cache.head_dim;
        for (int i = 0; i < head_dim; i += 16) store(values + i, load(value + i));
        return;
    }
    base += int64_t{offset / kKeyTile} * kKeyTile * cache.head_dim * 2 + offset % kKeyTile / 2 * kLine;
    for (int i = 0; i < head_dim; i += 16) {   // one line holds 16 dimensions of two positions; ours is one half of each
        int32_t* line = reinterpret_cast<int32_t*>(base + int64_t{i / 16} * 16 * kLine);
        const I16 half = to_bf16_lanes(load(value + i)), old = load(line);
        int32_t lanes[16];
        store(lanes, half);
        if (offset % 2 == 0) {
            store(line, (old & fill_int(static_cast<int32_t>(0xffff0000u))) | half);
        } else {
            for (int j = 0; j < 16; ++j) lanes[j] = static_cast<int32_t>(static_cast<uint32_t>(lanes[j]) << 16);
            store(line, (old & fill_int(0xffff)) | load(lanes));
        }
    }
}

inline void merge_span(float* total, float* total_peak, float* total_mass, const float* sums, float peak, float mass, int size) {
    const float top = *total_peak > peak ? *total_peak : peak;
    const F16 ours = exp(fill(*total_peak - top)), theirs = exp(fill(peak - top));
    for (int i = 0; i < size; i += 16) store(total + i, load(total + i) * ours + load(sums + i) * theirs);
    float lanes[16];
    store(lanes, fill(*total_mass) * ours + fill(mass) * theirs);
    *total_peak = top;
    *total_mass = lanes[0];
}

inline void divide(const float* sums, float mass, int size, float* out) {
    const F16 factor = fill(1.0f) / fill(mass);
    for (int i = 0; i < size; i += 16) store(out + i, load(sums + i) * factor);
}

// Softmax of one row of scores over keys low <= p < high, in tiles from `begin` (a multiple of 32) to `end`; other keys
// get zero. The weights replace the scores, rounded to bf16 where the cache is; or go to `halves`, if given.
inline void soften(float* scores, bool half, uint16_t* halves, int begin, int end, int low, int high, float* peak_out, float* mass_out) {
    F16 largest = fill(-1e30f);
    for (int i = begin; i < end; i += 16) {
        const F16 score = load(scores + i - begin);
        const bool inside = low <= i && i + 16 <= high;
        largest = max(largest, inside ? score : select(low - i, high - i, score, fill(-1e30f)));
    }
    const float top = peak(largest);
    F16 mass = fill(0);
    for (int i = begin; i < end; i += 16) {
        const bool inside = low <= i && i + 16 <= high;
        F16 weight = i >= high || i + 16 <= low ? fill(0) : exp(load(scores + i - begin) - fill(top));
        if (!inside) weight = select(low - i, high - i, weight, fill(0));
        mass = mass + weight;
        if (halves != nullptr)
            store_bf16(halves + i - begin, weight);
        else
            store(scores + i - begin, half ? rounded_to_bf16(weight) : weight);
    }
    *peak_out = top;
    *mass_out = sum(mass);
}

// Scores of kQueries queries against 16 keys.
template <int kQueries>
inline void score_half(const uint8_t* keys, const float* queries, int64_t stride, int head_dim, float* out, int64_t out_stride) {
    F16 total[kQueries];
    for (int q = 0; q < kQueries; ++q) total[q] = fill(0);
    for (int i = 0; i < head_dim; i += 32) {
        F16 even[kQueries], odd[kQueries];
        for (int q = 0; q < kQueries; ++q) even[q] = odd[q] = fill(0);
#pragma GCC unroll 4
        for (int pair = 0; pair < 16; ++pair, keys += kLine) {
            const F16 e = even_half(keys), o = odd_half(keys);
#pragma GCC unroll 4
            for (int q = 0; q < kQueries; ++q) {
                even[q] = fma(fill(queries[q * stride + i + 2 * pair]), e, even[q]);
                odd[q] = fma(fill(queries[q * stride + i + 2 * pair + 1]), o, odd[q]);
            }
        }
        for (int q = 0; q < kQueries; ++q) total[q] = total[q] + (even[q] + odd[q]);
    }
    for (int q = 0; q < kQueries; ++q) store(out + q * out_stride, total[q]);
}

template <int kQueries>
inline void score_float(const uint8_t* keys, const float* queries, int64_t stride, int head_dim, float* out, int64_t out_stride) {
    F16 total[kQueries];
    for (int q = 0; q < kQueries; ++q) total[q] = fill(0);
    for (int i = 0; i < head_dim; ++i, keys += kLine) {
        const F16 line = load(reinterpret_cast<const float*>(keys));
#pragma GCC unroll 4
        for (int q = 0; q < kQueries; ++q) total[q] = fma(fill(queries[q * stride + i]), line, total[q]);
    }
    for (int q = 0; q < kQueries; ++q) store(out + q * out_stride, total[q]);
}

template <int kQueries>
inline void attend_queries(const SpanOfRow& s, int first) {
    const Cache& cache = *s.cache;
    const int begin = s.low / kKeyTile * kKeyTile, end = (s.high + kKeyTile - 1) / kKeyTile * kKeyTile;
    const float* queries = s.queries + first * s.query_stride;
    float* scores = s.scratch;   // [kQueries][kSpan]
    for (int p = begin; p < end; p += 16) {
        const int offset = p % cache.block_size;
        const uint8_t* keys = cache.keys(s.layer, s.table[p / cache.block_size], s.kv_head) + int64_t{offset} * cache.head_dim * cache.value_bytes();
        if (cache.half)
            score_half<kQueries>(keys, queries, s.query_stride, cache.head_dim, scores + p - begin, kSpan);
        else
            score_float<kQueries>(keys, queries, s.query_stride, cache.head_dim, scores + p - begin, kSpan);
    }
    for (int q = 0; q < kQueries; ++q) {
        soften(scores + q * kSpan, cache.half, nullptr, begin, end, s.low, s.high, s.peaks + first + q, s.masses + first + q);
    }
    float* sums = s.sums + first * s.sum_stride;
    for (int i = 0; i < cache.head_dim; i += 16) {
        F16 total[kQueries];
        for (int q = 0; q < kQueries; ++q) total[q] = fill(0);
        for (int p = begin; p < end; p += kKeyTile) {
            const int offset = p % cache.block_size;
            const uint8_t* values = cache.values(s.layer, s.table[p / cache.block_size], s.kv_head);
            if (cache.half) {
                const uint8_t* line = values + int64_t{offset} * cache.head_dim * 2 + int64_t{i / 16} * 16 * kLine;
                F16 even[kQueries], odd[kQueries];
                for (int q = 0; q < kQueries; ++q) even[q] = odd[q] = fill(0);
#pragma GCC unroll 4
                for (int pair = 0; pair < 16; ++pair, line += kLine) {
                    const F16 e = even_half(line), o = odd_half(line);
#pragma GCC unroll 4
                    for (int q = 0; q < kQueries; ++q) {
                        even[q] = fma(fill(scores[q * kSpan + p - begin + 2 * pair]), e, even[q]);
                        odd[q] = fma(fill(scores[q * kSpan + p - begin + 2 * pair + 1]), o, odd[q]);
                    }
                }
                for (int q = 0; q < kQueries; ++q) total[q] = total[q] + (even[q] + odd[q]);
            } else {
                const float* line = reinterpret_cast<const float*>(values) + int64_t{offset} * cache.head_dim + i;
                for (int key = 0; key < kKeyTile; ++key, line += cache.head_dim)
                    for (int q = 0; q < kQueries; ++q) total[q] = fma(fill(scores[q * kSpan + p - begin + key]), load(line), total[q]);
            }
        }
        for (int q = 0; q < kQueries; ++q) store(sums + q * s.sum_stride + i, total[q]);
    }
}

inline void attend_span(const SpanOfRow& s) {
    int first = 0;
    for (; first + 4 <= s.num_queries; first += 4) attend_queries<4>(s, first);
    if (s.num_queries - first == 3) return attend_queries<3>(s, first);
    if (s.num_queries - first == 2) return attend_queries<2>(s, first);
    if (s.num_queries - first == 1) attend_queries<1>(s, first);
}

}  // namespace TUITION_ISA
}  // namespace tuition

// Softmax over one span of keys, and how spans are merged.
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

inline void merge_span(float* total, float* total_peak, float* total_mass, const float* sums, float peak,
                       float mass, int size) {
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

// Softmax of one row of scores over keys low <= p < high, in tiles from `begin` (a multiple of 32) to `end`;
// other keys get zero. The weights replace the scores, rounded to bf16 where the cache is; or go to `halves`,
// if given.
inline void soften(float* scores, bool half, uint16_t* halves, int begin, int end, int low, int high,
                   float* peak_out, float* mass_out) {
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

// Between scores and sums of one span, [16 queries][kSpan] each.
struct SpanWeights {
    float* scores;     // replaced by the weights, rounded to bf16 where the cache is
    uint16_t* halves;  // the weights as bf16, where the sums read them so
};

inline void soften_all(const SpanOfQueries& s, const SpanWeights& weights, bool halves) {
    for (int q = 0; q < s.num_queries; ++q) {
        const bool any = s.lows[q] < s.highs[q];
        if (any) {
            soften(weights.scores + q * kSpan, s.cache->half, halves ? weights.halves + q * kSpan : nullptr,
                   s.begin, s.end, s.lows[q], s.highs[q], s.peaks + q, s.masses + q);
            continue;
        }
        s.masses[q] = 0;
        for (int p = 0; p < s.end - s.begin; ++p) weights.scores[q * kSpan + p] = 0;
        if (halves) std::memset(weights.halves + q * kSpan, 0, static_cast<size_t>(s.end - s.begin) * 2);
    }
}

// The tile of 32 positions from `position` on, of keys or of values.
inline const uint8_t* key_tile(const SpanOfQueries& s, int position) {
    const Cache& cache = *s.cache;
    return cache.keys(s.layer, s.table[position / cache.block_size], s.kv_head) +
           int64_t{position % cache.block_size} * cache.head_dim * cache.value_bytes();
}
inline const uint8_t* value_tile(const SpanOfQueries& s, int position) {
    return key_tile(s, position) + s.cache->head_bytes();
}

}  // namespace TUITION_ISA
}  // namespace tuition

// Attention of up to 16 queries over one span of keys; and how spans are merged.
//
// The queries are the heads of one row that share keys, or one head of consecutive rows of a prompt: the
// lines of keys and values are read once for several of them. With a bf16 cache the sums run as dot.hpp says,
// on vectors and on matrix tiles with the same bits, so that a token gets the same bits whether it came alone
// or within a chunk. Spans begin at multiples of kSpan whatever the chunk; each has its own softmax peak and
// is merged into the total in order.
#pragma once

#include <algorithm>

#include "attention_tiles.hpp"
#include "dot.hpp"
#include "softmax.hpp"

namespace tuition {
namespace TUITION_ISA {

#if defined(TUITION_BF16_DOT)
constexpr bool kWeightsAsHalves = true;
inline Strip<Left> query_strip(const SpanOfQueries& s, int first) {
    return {s.halves + first * s.query_stride, s.query_stride, 32};
}
inline Strip<Left> weight_strip(const SpanWeights& w, int first) {
    return {w.halves + first * kSpan, kSpan, 32};
}
#else
constexpr bool kWeightsAsHalves = false;
inline Strip<Left> query_strip(const SpanOfQueries& s, int first) {
    return {s.queries + first * s.query_stride, s.query_stride, 32};
}
inline Strip<Left> weight_strip(const SpanWeights& w, int first) {
    return {w.scores + first * kSpan, kSpan, 32};
}
#endif

constexpr int kKeysAhead =
    2 * kKeyTile;  // positions: tiles lie apart, so the processor does not guess the next one

// Scores of kQueries queries against the 32 keys of one tile. Beside them it asks the second cache for the
// values of these keys and for keys to come, a line at a time: asked for all at once most would be dropped.
template <int kQueries>
inline void score_tile(const SpanOfQueries& s, int first, int position, float* out) {
    const int64_t dim = s.cache->head_dim, steps = dim / 32;
    for (int b = 0; b < 2; b += kAcross) {
        F16 total[kQueries][kAcross];
        if (s.cache->half) {
            const uint8_t* keys = key_tile(s, position) + b * dim * 32;
            const uint8_t* coming =
                key_tile(s, std::min(position + kKeysAhead, s.end - kKeyTile)) + b * dim * 32;
            const uint8_t* values = value_tile(s, position) + b * dim * 32;
            const auto ask = [coming, values, next = dim * 32](int64_t line) {
                for (int c = 0; c < kAcross; ++c) {
                    __builtin_prefetch(coming + c * next + line * kLine, 0, 2);
                    __builtin_prefetch(values + c * next + line * kLine, 0, 2);
                }
            };
            sum_bf16<kQueries, kAcross, 0>(
                query_strip(s, first), steps, [keys](int64_t step) { return keys + step * 16 * kLine; },
                dim * 32, total, ask);
        } else {
            const uint8_t* keys = key_tile(s, position) + b * dim * 64;
            const Strip<float> left{s.queries + first * s.query_stride, s.query_stride, 32};
            sum_float<kQueries, kAcross, 0>(
                left, steps, [keys](int64_t step) { return keys + step * 32 * kLine; }, dim * 64, kLine,
                total);
        }
        for (int q = 0; q < kQueries; ++q)
            for (int c = 0; c < kAcross; ++c) store(out + q * kSpan + (b + c) * 16, total[q][c]);
    }
}

// Sums of values by weights for kQueries queries, 32 dimensions from `i` on.
template <int kQueries>
inline void sum_values(const SpanOfQueries& s, const SpanWeights& weights, int first, int64_t i) {
    const int64_t dim = s.cache->head_dim, steps = (s.end - s.begin) / kKeyTile;
    for (int64_t at = i; at < i + 32; at += kAcross * 16) {
        F16 total[kQueries][kAcross];
        if (s.cache->half) {
            auto values = [&s, at](int64_t step) {
                return value_tile(s, s.begin + static_cast<int>(step) * kKeyTile) + at / 16 * 16 * kLine;
            };
            sum_bf16<kQueries, kAcross, 0>(weight_strip(weights, first), steps, values, 16 * kLine, total);
        } else {
            auto values = [&s, at](int64_t step) {
                return value_tile(s, s.begin + static_cast<int>(step) * kKeyTile) + at * 4;
            };
            sum_float<kQueries, kAcross, 0>({weights.scores + first * kSpan, kSpan, 32}, steps, values, kLine,
                                            dim * 4, total);
        }
        for (int q = 0; q < kQueries; ++q)
            for (int c = 0; c < kAcross; ++c)
                store(s.sums + (first + q) * s.sum_stride + at + c * 16, total[q][c]);
    }
}

// Call work<count>(first) for all queries, kMost at a time and then fewer.
template <int kMost, typename Work>
inline void over_queries(int first, int last, Work work) {
    for (; first + kMost <= last; first += kMost) work.template operator()<kMost>(first);
    if constexpr (kMost > 1)
        if (first < last) over_queries<(kMost > 4 ? kMost / 2 : kMost - 1)>(first, last, work);
}

inline void attend_span(const SpanOfQueries& s) {
    const SpanWeights weights{s.scratch, reinterpret_cast<uint16_t*>(s.scratch + 16 * kSpan)};
#if defined(TUITION_AMX)
    if (s.cache->half && s.num_queries >= kTileQueries) return attend_span_tiles(s, weights);
#endif
    for (int p = s.begin; p < s.end; p += kKeyTile)
        over_queries<kRowsBf16>(0, s.num_queries, [&]<int kQueries>(int first) {
            score_tile<kQueries>(s, first, p, weights.scores + first * kSpan + p - s.begin);
        });
    soften_all(s, weights, s.cache->half && kWeightsAsHalves);
    for (int i = 0; i < s.cache->head_dim; i += 32)
        over_queries<kRowsBf16>(0, s.num_queries,
                                [&]<int kQueries>(int first) { sum_values<kQueries>(s, weights, first, i); });
}

}  // namespace TUITION_ISA
}  // namespace tuition

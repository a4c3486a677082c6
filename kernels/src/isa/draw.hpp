// Drawing a token from a row of logits: the passes over many values; src/draw.cpp says what is done with
// them.
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

// Sixteen values, of which `count` are there; `rest` stands for the others.
inline F16 load_some(const float* at, int64_t count, float rest) {
    if (count >= 16) return load(at);
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = i < count ? at[i] : rest;
    return load(lanes);
}

inline int64_t span_end(int64_t begin, int64_t size) {
    return begin + kDrawSpan < size ? begin + kDrawSpan : size;
}

inline float survey(const float* row, int64_t size, float* tops) {
    const F16 none = fill(-__builtin_inff()), lowest = fill(-3.4028234e38f);
    F16 largest = none, poison = fill(0);
    for (int64_t begin = 0; begin < size; begin += kDrawSpan, tops += 16) {
        const int64_t end = span_end(begin, size);
        F16 top = none, nothing = fill(0);
        for (int64_t i = begin; i < end; i += 16) {
            const F16 value = load_some(row + i, end - i, -__builtin_inff());
            top = max(top, value);
            nothing =
                fma(max(lowest, value), fill(0), nothing);  // not a number for what is none and for +infinity
        }
        store(tops, top);
        largest = max(largest, top);
        poison = poison + nothing;
    }
    return sum(poison) == 0 ? peak(largest) : __builtin_nanf("");
}

inline void weigh(const float* values, int64_t size, float top, float scale, float* weights, float* sums) {
    const F16 least = exp(fill(-87.0f));  // what exp gives for everything below: to be no weight at all
    for (int64_t begin = 0; begin < size; begin += kDrawSpan) {
        const int64_t end = span_end(begin, size);
        F16 total = fill(0);
        for (int64_t i = begin; i < end; i += 16) {
            const F16 x = (load_some(values + i, end - i, -__builtin_inff()) - fill(top)) * fill(scale);
            const F16 weight = max(exp(x) - least, fill(0));
            store(weights + i, weight);
            total = total + weight;
        }
        sums[begin / kDrawSpan] = sum(total);
    }
}

inline void add_up(const float* weights, int64_t size, float* sums) {
    for (int64_t begin = 0; begin < size; begin += kDrawSpan) {
        const int64_t end = span_end(begin, size);
        F16 total = fill(0);
        for (int64_t i = begin; i < end; i += 16) total = total + load_some(weights + i, end - i, 0);
        sums[begin / kDrawSpan] = sum(total);
    }
}

inline int64_t gather(const float* values, const int32_t* sources, int64_t size, float border, float* kept,
                      int32_t* ids) {
    const int32_t first[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int64_t count = 0;
    for (int64_t i = 0; i < size; i += 16) {
        const F16 value = load_some(values + i, size - i, -__builtin_inff());
        const uint32_t which = at_least(value, fill(border));
        if (which == 0) continue;
        const I16 source =
            sources == nullptr ? load(first) + fill_int(static_cast<int32_t>(i)) : load(sources + i);
        keep(which, value, kept + count);
        keep(which, source, ids + count);
        count += __builtin_popcount(which);
    }
    return count;
}

}  // namespace TUITION_ISA
}  // namespace tuition

// The inner loops of everything that is not an integer format: products, scores of attention, sums over
// values.
//
// All have the form  total[row][block lane] = sum over k of left[row, k] right[k, block lane],  32 columns k
// a step: a step of the right operand is 32 lines of 16 float32, or 16 lines of 16 pairs of bf16, for each of
// kBlocks blocks.
//
// float32: one chain of sums over all columns. bf16: exactly what a matrix unit does (Intel's description of
// TDPBF16PS): for each 32 columns the even and the odd products are summed in two chains that start at zero,
// then total += even + odd. A product of two bf16 is exact in float32, so with denormals flushed (see
// modes.hpp) vector and tile give the same bits, and a row may take either. Where there is an instruction for
// pairs of bf16 but no matrix unit (TUITION_BF16_DOT), one chain of that instruction over all pairs: twice
// the speed, other bits than the above, and again the same for a row in any batch.
#pragma once

#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

// What stays in registers at once: rows, and blocks of 16 outputs. Enough sums to hide the latency of one,
// few enough to leave room for the lines they take.
#if defined(TUITION_BF16_DOT)
constexpr int kRowsFloat = 8, kRowsBf16 = 8, kAcross = 2;
#elif defined(TUITION_AVX512)
constexpr int kRowsFloat = 8, kRowsBf16 = 4, kAcross = 2;
#else
constexpr int kRowsFloat = 4, kRowsBf16 = 2, kAcross = 1;
#endif

// The left operand of bf16 sums: bf16 itself, or what it stands for.
#if defined(TUITION_BF16_DOT)
using Left = uint16_t;
#else
using Left = float;
#endif

// What sums ask of memory beside their own lines, pair of columns by pair: nothing.
struct AskNothing {
    void operator()(int64_t) const {}
};

// Where a left operand lies, in elements.
template <typename Element>
struct Strip {
    const Element* at;
    int64_t row_stride;
    int64_t step_stride;  // from 32 columns to the next 32
};

// `right(step)`: where the first block's lines of a step are; `next`: bytes from one block to the next;
// `line`: bytes from one line to the next; kAhead: bytes that the memory is asked for in advance, 0 where all
// is near. A single stream is asked into the second cache, which has more places for lines under way than the
// first.
template <int kRows, int kBlocks, int kAhead, typename Right>
inline void sum_float(Strip<float> left, int64_t steps, Right right, int64_t next, int64_t line,
                      F16 (&total)[kRows][kBlocks]) {
    F16 sums[kRows][kBlocks];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) sums[r][b] = fill(0);
    for (int64_t step = 0; step < steps; ++step) {
        const uint8_t* w = right(step);
        const float* x = left.at + step * left.step_stride;
        for (int column = 0; column < 32; ++column, w += line) {
            F16 lines[kBlocks];
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) {
                if constexpr (kAhead > 0) __builtin_prefetch(w + b * next + kAhead, 0, kBlocks == 1 ? 2 : 3);
                lines[b] = load(reinterpret_cast<const float*>(w + b * next));
            }
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                const F16 value = fill(x[r * left.row_stride + column]);
#pragma GCC unroll 4
                for (int b = 0; b < kBlocks; ++b) sums[r][b] = fma(value, lines[b], sums[r][b]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) total[r][b] = sums[r][b];
}

#if defined(TUITION_BF16_DOT)

template <int kRows, int kBlocks, int kAhead, typename Right, typename Ask = AskNothing>
inline void sum_bf16(Strip<Left> left, int64_t steps, Right right, int64_t next, F16 (&total)[kRows][kBlocks],
                     Ask ask = {}) {
    __m512 sums[kRows][kBlocks];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) sums[r][b] = _mm512_setzero_ps();
    for (int64_t step = 0; step < steps; ++step) {
        const uint8_t* w = right(step);
        const Left* x = left.at + step * left.step_stride;
#pragma GCC unroll 4
        for (int pair = 0; pair < 16; ++pair) {
            __m512bh lines[kBlocks];
            ask(step * 16 + pair);
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) {
                if constexpr (kAhead > 0)
                    __builtin_prefetch(w + b * next + pair * 64 + kAhead, 0, kBlocks == 1 ? 2 : 3);
                lines[b] = pairs(w + b * next + pair * 64);
            }
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                const __m512bh both = fill_pair(x + r * left.row_stride + 2 * pair);
#pragma GCC unroll 4
                for (int b = 0; b < kBlocks; ++b) sums[r][b] = _mm512_dpbf16_ps(sums[r][b], lines[b], both);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) total[r][b].v = sums[r][b];
}

#else

template <int kRows, int kBlocks, int kAhead, typename Right, typename Ask = AskNothing>
inline void sum_bf16(Strip<Left> left, int64_t steps, Right right, int64_t next, F16 (&total)[kRows][kBlocks],
                     Ask ask = {}) {
    for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kBlocks; ++b) total[r][b] = fill(0);
    for (int64_t step = 0; step < steps; ++step) {
        const uint8_t* w = right(step);
        const Left* x = left.at + step * left.step_stride;
        F16 even[kRows][kBlocks], odd[kRows][kBlocks];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) even[r][b] = odd[r][b] = fill(0);
        for (int pair = 0; pair < 16; ++pair, w += 64) {
            ask(step * 16 + pair);
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) {
                if constexpr (kAhead > 0) __builtin_prefetch(w + b * next + kAhead, 0, kBlocks == 1 ? 2 : 3);
                const F16 e = even_half(w + b * next), o = odd_half(w + b * next);
#pragma GCC unroll 8
                for (int r = 0; r < kRows; ++r) {
                    even[r][b] = fma(fill(x[r * left.row_stride + 2 * pair]), e, even[r][b]);
                    odd[r][b] = fma(fill(x[r * left.row_stride + 2 * pair + 1]), o, odd[r][b]);
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) total[r][b] = total[r][b] + (even[r][b] + odd[r][b]);
    }
}

#endif

}  // namespace TUITION_ISA
}  // namespace tuition

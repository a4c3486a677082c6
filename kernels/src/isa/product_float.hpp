// Products with float32 and bf16 weights on vector units; the order of sums is told in dot.hpp.
#pragma once

#include "dot.hpp"
#include "finish.hpp"

namespace tuition {
namespace TUITION_ISA {

constexpr int kPrefetchAhead = 2048;     // bytes; what keeps the memory's queues full on the machines tried
constexpr int kStreamAheadFloat = 1024;  // likewise, for one row of weights from memory
constexpr int64_t kStripBytes =
    1 << 19;  // activations that pass at a time: what half of the second cache holds

// The left operand from `row` on; a strip of bf16 must not leave its tile of 16 rows.
inline Strip<float> float_strip(const Rows& left, int row) {
    return {left.values + row * left.columns, left.columns, 32};
}
#if defined(TUITION_BF16_DOT)
inline Strip<Left> bf16_strip(const Rows& left, int row) {
    return {reinterpret_cast<const Left*>(left.line(row, 0)), kLine / 2, 16 * kLine / 2};
}
#else
inline Strip<Left> bf16_strip(const Rows& left, int row) { return float_strip(left, row); }
#endif

// Sums of kRows rows of activations by kBlocks neighbouring blocks of weights.
template <Format kFormat, int kRows, int kBlocks, int kAhead>
inline void float_sums(const Product& p, int row, int64_t block, F16 (&total)[kRows][kBlocks]) {
    const int64_t next = p.weight->block_bytes(), steps = p.left->columns / 32;
    const uint8_t* w = p.weight->block(block);
    if constexpr (kFormat == Format::float32)
        sum_float<kRows, kBlocks, kAhead>(
            float_strip(*p.left, row), steps, [w](int64_t step) { return w + step * 32 * kLine; }, next,
            kLine, total);
    else
        sum_bf16<kRows, kBlocks, kAhead>(
            bf16_strip(*p.left, row), steps, [w](int64_t step) { return w + step * 16 * kLine; }, next,
            total);
}

// kRows rows by kBlocks blocks, of which kWide are held in registers.
template <Format kFormat, int kRows, int kBlocks>
inline void float_part(const Product& p, int row, int64_t block) {
    constexpr int kWide = kRows > 1 && kBlocks > kAcross ? kAcross : kBlocks;
    F16 total[kRows][kBlocks];
    for (int first = 0; first < kBlocks; first += kWide) {
        F16 part[kRows][kWide];
        float_sums<kFormat, kRows, kWide, kPrefetchAhead>(p, row, block + first, part);
        for (int r = 0; r < kRows; ++r)
            for (int b = 0; b < kWide; ++b) total[r][first + b] = part[r][b];
    }
    finish_all(p, row, block, total);
}

// One row by two blocks, one after the other: weights from memory are fastest in one stream.
template <Format kFormat>
inline void float_narrow(const Product& p, int64_t block) {
    F16 total[1][2];
    for (int b = 0; b < 2; ++b) {
        F16 one[1][1];
        float_sums<kFormat, 1, 1, kStreamAheadFloat>(p, 0, block + b, one);
        total[0][b] = one[0][0];
    }
    finish_all(p, 0, block, total);
}

// Rows first <= row < last, kRows at a time and then fewer.
template <Format kFormat, int kRows, int kBlocks>
inline void float_rows(const Product& p, int row, int last, int64_t block) {
    for (; row + kRows <= last; row += kRows) float_part<kFormat, kRows, kBlocks>(p, row, block);
    if constexpr (kRows > 1)
        if (row < last) float_rows<kFormat, kRows / 2, kBlocks>(p, row, last, block);
}

// Many rows: weights of two blocks stay in the second cache while the rows pass. One row: four blocks at
// once, so that enough independent sums are under way to hide their latency; unless memory is what it waits
// for.
template <Format kFormat>
inline void multiply_float_as(const Product& p) {
    if (p.num_rows == 1) {
        int64_t block = p.first;
        for (; p.from_memory && block + 2 <= p.last; block += 2) float_narrow<kFormat>(p, block);
        for (; block + 4 <= p.last; block += 4) float_part<kFormat, 1, 4>(p, 0, block);
        for (; block + 2 <= p.last; block += 2) float_part<kFormat, 1, 2>(p, 0, block);
        for (; block < p.last; ++block) float_part<kFormat, 1, 1>(p, 0, block);
        return;
    }
    constexpr int kRows = kFormat == Format::float32 ? kRowsFloat : kRowsBf16;
    constexpr int64_t kBytes = kFormat == Format::float32 ? 4 : sizeof(Left);
    const int64_t fitting = round_up(kStripBytes / (p.left->columns * kBytes) + 1, 16);
    for (int64_t start = 0; start < p.num_rows; start += fitting) {
        const int row = static_cast<int>(start),
                  stop = static_cast<int>(start + fitting < p.num_rows ? start + fitting : p.num_rows);
        int64_t block = p.first;
        for (; block + 2 <= p.last; block += 2) float_rows<kFormat, kRows, 2>(p, row, stop, block);
        for (; block < p.last; ++block) float_rows<kFormat, kRows, 1>(p, row, stop, block);
    }
}

inline void multiply_float(const Product& p) {
    if (p.weight->format == Format::float32) return multiply_float_as<Format::float32>(p);
    multiply_float_as<Format::bf16>(p);
}

}  // namespace TUITION_ISA
}  // namespace tuition

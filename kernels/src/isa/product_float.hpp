// Products with float32 and bf16 weights on vector units; the order of sums is told in dot.hpp.
#pragma once

#include "dot.hpp"
#include "finish.hpp"

namespace tuition {
namespace TUITION_ISA {

constexpr int kPrefetchAhead = 2048;          // bytes; what keeps the memory's queues full on the machines tried
constexpr int64_t kStripBytes = 1 << 19;      // activations that pass at a time: what half of the second cache holds

// The left operand from `row` on; a strip of bf16 must not leave its tile of 16 rows.
inline Strip<float> float_strip(const Rows& left, int row) { return {left.values + row * left.columns, left.columns, 32}; }
#if defined(TUITION_BF16_DOT)
inline Strip<Left> bf16_strip(const Rows& left, int row) { return {reinterpret_cast<const Left*>(left.line(row, 0)), kLine / 2, 16 * kLine / 2}; }
#else
inline Strip<Left> bf16_strip(const Rows& left, int row) { return float_strip(left, row); }
#endif

// kRows rows of activations by kBlocks neighbouring blocks of weights, of which kWide are held in registers.
template <Format kFormat, int kRows, int kBlocks>
inline void float_part(const Product& p, int row, int64_t block) {
    constexpr int kWide = kRows > 1 && kBlocks > kAcross ? kAcross : kBlocks;
    const int64_t next = p.weight->block_bytes(), steps = p.left->columns / 32;
    F16 total[kRows][kBlocks];
    for (int first = 0; first < kBlocks; first += kWide) {
        const uint8_t* w = p.weight->block(block + first);
        F16 part[kRows][kWide];
        if constexpr (kFormat == Format::float32)
            sum_float<kRows, kWide, kPrefetchAhead>(float_strip(*p.left, row), steps, [w](int64_t step) { return w + step * 32 * kLine; }, next, kLine, part);
        else
            sum_bf16<kRows, kWide, kPrefetchAhead>(bf16_strip(*p.left, row), steps, [w](int64_t step) { return w + step * 16 * kLine; }, next, part);
        for (int r = 0; r < kRows; ++r)
            for (int b = 0; b < kWide; ++b) total[r][first + b] = part[r][b];
    }
    for (int r = 0; r < kRows; ++r) {
        if (p.ending == Ending::gate) {
            for (int b = 0; b + 1 < kBlocks; b += 2) finish_gate(p, row + r, block + b, total[r][b], total[r][b + 1]);
        } else {
            for (int b = 0; b < kBlocks; ++b) finish(p, row + r, block + b, total[r][b]);
        }
    }
}

// Rows first <= row < last, kRows at a time and then fewer.
template <Format kFormat, int kRows, int kBlocks>
inline void float_rows(const Product& p, int row, int last, int64_t block) {
    for (; row + kRows <= last; row += kRows) float_part<kFormat, kRows, kBlocks>(p, row, block);
    if constexpr (kRows > 1)
        if (row < last) float_rows<kFormat, kRows / 2, kBlocks>(p, row, last, block);
}

// Many rows: weights of two blocks stay in the second cache while the rows pass. One row: four blocks at once, so that
// enough independent sums are under way to hide their latency.
template <Format kFormat>
inline void multiply_float_as(const Product& p) {
    if (p.num_rows == 1) {
        int64_t block = p.first;
        for (; block + 4 <= p.last; block += 4) float_part<kFormat, 1, 4>(p, 0, block);
        for (; block + 2 <= p.last; block += 2) float_part<kFormat, 1, 2>(p, 0, block);
        for (; block < p.last; ++block) float_part<kFormat, 1, 1>(p, 0, block);
        return;
    }
    constexpr int kRows = kFormat == Format::float32 ? kRowsFloat : kRowsBf16;
    constexpr int64_t kBytes = kFormat == Format::float32 ? 4 : sizeof(Left);
    const int64_t fitting = round_up(kStripBytes / (p.left->columns * kBytes) + 1, 16);
    for (int64_t start = 0; start < p.num_rows; start += fitting) {
        const int row = static_cast<int>(start), stop = static_cast<int>(start + fitting < p.num_rows ? start + fitting : p.num_rows);
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

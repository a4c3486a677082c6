// Products with float32 and bf16 weights on vector units.
//
// float32: one chain of sums over all columns. bf16: exactly what a matrix unit does (Intel's description of TDPBF16PS):
// for each 32 columns the even and the odd products are summed in two chains that start at zero, then
// total += even + odd. A product of two bf16 is exact in float32, so with denormals flushed (see modes.hpp) vector and
// tile give the same bits, and a row may take either.
#pragma once

#include "finish.hpp"

namespace tuition {
namespace TUITION_ISA {

constexpr int kPrefetchAhead = 2048;   // bytes; what keeps the memory's queues full on the machines tried

// kRows rows of activations by kBlocks neighbouring blocks of weights, held in registers.
template <int kRows, int kBlocks>
inline void float_part(const Product& p, int row, int64_t block) {
    const int64_t columns = p.left->columns, block_bytes = p.weight->block_bytes();
    const float* x = p.left->values + row * columns;
    const uint8_t* w = p.weight->block(block);
    F16 total[kRows][kBlocks];
    for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kBlocks; ++b) total[r][b] = fill(0);
    for (int64_t column = 0; column < columns; ++column, w += kLine) {
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) {
            prefetch(w + b * block_bytes + kPrefetchAhead);
            const F16 line = load(reinterpret_cast<const float*>(w + b * block_bytes));
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) total[r][b] = fma(fill(x[r * columns + column]), line, total[r][b]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        if (p.ending == Ending::gate) {
            for (int b = 0; b + 1 < kBlocks; b += 2) finish_gate(p, row + r, block + b, total[r][b], total[r][b + 1]);
        } else {
            for (int b = 0; b < kBlocks; ++b) finish(p, row + r, block + b, total[r][b]);
        }
    }
}

template <int kRows, int kBlocks>
inline void bf16_part(const Product& p, int row, int64_t block) {
    const int64_t columns = p.left->columns, block_bytes = p.weight->block_bytes();
    const float* x = p.left->values + row * columns;
    const uint8_t* w = p.weight->block(block);
    F16 total[kRows][kBlocks];
    for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kBlocks; ++b) total[r][b] = fill(0);
    for (int64_t column = 0; column < columns; column += 32) {
        F16 even[kRows][kBlocks], odd[kRows][kBlocks];
        for (int r = 0; r < kRows; ++r)
            for (int b = 0; b < kBlocks; ++b) even[r][b] = odd[r][b] = fill(0);
#pragma GCC unroll 16
        for (int pair = 0; pair < 16; ++pair, w += kLine) {
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) {
                prefetch(w + b * block_bytes + kPrefetchAhead);
                const F16 e = even_half(w + b * block_bytes), o = odd_half(w + b * block_bytes);
#pragma GCC unroll 4
                for (int r = 0; r < kRows; ++r) {
                    even[r][b] = fma(fill(x[r * columns + column + 2 * pair]), e, even[r][b]);
                    odd[r][b] = fma(fill(x[r * columns + column + 2 * pair + 1]), o, odd[r][b]);
                }
            }
        }
        for (int r = 0; r < kRows; ++r)
            for (int b = 0; b < kBlocks; ++b) total[r][b] = total[r][b] + (even[r][b] + odd[r][b]);
    }
    for (int r = 0; r < kRows; ++r) {
        if (p.ending == Ending::gate) {
            for (int b = 0; b + 1 < kBlocks; b += 2) finish_gate(p, row + r, block + b, total[r][b], total[r][b + 1]);
        } else {
            for (int b = 0; b < kBlocks; ++b) finish(p, row + r, block + b, total[r][b]);
        }
    }
}

template <int kRows, int kBlocks>
inline void float_or_bf16_part(const Product& p, int row, int64_t block) {
    if (p.weight->format == Format::float32) return float_part<kRows, kBlocks>(p, row, block);
    return bf16_part<kRows, kBlocks>(p, row, block);
}

// Many rows: weights of two blocks stay in the first cache while the rows pass. One row: four blocks at once, so that
// enough independent sums are under way to hide their latency.
inline void multiply_float(const Product& p) {
    if (p.num_rows == 1) {
        int64_t block = p.first;
        for (; block + 4 <= p.last; block += 4) float_or_bf16_part<1, 4>(p, 0, block);
        for (; block + 2 <= p.last; block += 2) float_or_bf16_part<1, 2>(p, 0, block);
        for (; block < p.last; ++block) float_or_bf16_part<1, 1>(p, 0, block);
        return;
    }
    for (int64_t block = p.first; block < p.last; block += 2) {
        const bool two = block + 2 <= p.last;
        int row = 0;
        for (; row + 4 <= p.num_rows; row += 4) two ? float_or_bf16_part<4, 2>(p, row, block) : float_or_bf16_part<4, 1>(p, row, block);
        for (; row < p.num_rows; ++row) two ? float_or_bf16_part<1, 2>(p, row, block) : float_or_bf16_part<1, 1>(p, row, block);
    }
}

}  // namespace TUITION_ISA
}  // namespace tuition

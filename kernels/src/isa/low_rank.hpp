// What a variant adds to a product: up (down x), by vectors of 16 ranks and then of 16 outputs (LowRank in
// kernels.hpp). Rows of one variant share the lines of its weights; a row's sums run in one order however
// many there are.
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

// Bytes that the memory is asked for in advance: pieces are short and lie apart, so the processor foresees
// little of them.
constexpr int kLowRankAhead = 8192;

inline void ask_ahead(const uint8_t* at, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += kLine) prefetch(at + kLowRankAhead + i);
}

// Two neighbouring columns of 16 rows.
struct Pair {
    F16 first, second;
};

template <Format kFormat>
inline Pair pair_at(const uint8_t* block, int64_t column) {
    if constexpr (kFormat == Format::float32) {
        const float* at = reinterpret_cast<const float*>(block) + column * kBlockRows;
        return {load(at), load(at + kBlockRows)};
    } else if constexpr (kFormat == Format::bf16) {
        const uint8_t* line = block + column / 2 * kLine;
        return {even_half(line), odd_half(line)};
    } else {
        const uint8_t* at = block + kLine + column * kBlockRows;
        return {load_int8(at), load_int8(at + kBlockRows)};
    }
}

// Sums with a block's weights as they are packed, as what they stand for.
template <Format kFormat>
inline F16 scaled(const uint8_t* block, F16 sums) {
    if constexpr (kFormat != Format::int8) return sums;
    return sums * load(reinterpret_cast<const float*>(block));
}

// 16 ranks of kRows rows: four chains of sums, by column % 4.
template <Format kFormat, int kRows>
inline void shrink_rows(const uint8_t* down, int inputs, const float* x, int64_t stride, float* out,
                        int64_t out_stride) {
    constexpr int64_t kColumnBytes = LowRank::block_bytes(kFormat, 1) - LowRank::block_bytes(kFormat, 0);
    F16 sums[kRows][4];
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < 4; ++i) sums[r][i] = fill(0);
    for (int column = 0; column < inputs; column += 4) {
        ask_ahead(down + column * kColumnBytes, 4 * kColumnBytes);
        const Pair left = pair_at<kFormat>(down, column), right = pair_at<kFormat>(down, column + 2);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            const float* at = x + r * stride + column;
            sums[r][0] = fma(fill(at[0]), left.first, sums[r][0]);
            sums[r][1] = fma(fill(at[1]), left.second, sums[r][1]);
            sums[r][2] = fma(fill(at[2]), right.first, sums[r][2]);
            sums[r][3] = fma(fill(at[3]), right.second, sums[r][3]);
        }
    }
    for (int r = 0; r < kRows; ++r)
        store(out + r * out_stride,
              scaled<kFormat>(down, (sums[r][0] + sums[r][1]) + (sums[r][2] + sums[r][3])));
}

template <Format kFormat>
inline void shrink_as(const LowRank& change, const float* x, int64_t stride, int num_rows, float* out,
                      int64_t out_stride) {
    for (const LowRank::Part& part : change.parts)
        for (int block = 0; block < part.rank; block += 16) {
            const uint8_t* down = part.down + block / 16 * LowRank::block_bytes(kFormat, change.inputs);
            float* to = out + part.at + block;
            int row = 0;
            for (; row + 4 <= num_rows; row += 4)
                shrink_rows<kFormat, 4>(down, change.inputs, x + row * stride, stride, to + row * out_stride,
                                        out_stride);
            for (; row + 2 <= num_rows; row += 2)
                shrink_rows<kFormat, 2>(down, change.inputs, x + row * stride, stride, to + row * out_stride,
                                        out_stride);
            for (; row < num_rows; ++row)
                shrink_rows<kFormat, 1>(down, change.inputs, x + row * stride, stride, to + row * out_stride,
                                        out_stride);
        }
}

inline void shrink(const LowRank& change, const float* x, int64_t stride, int num_rows, float* out,
                   int64_t out_stride) {
    if (change.format == Format::float32)
        return shrink_as<Format::float32>(change, x, stride, num_rows, out, out_stride);
    if (change.format == Format::int8)
        return shrink_as<Format::int8>(change, x, stride, num_rows, out, out_stride);
    shrink_as<Format::bf16>(change, x, stride, num_rows, out, out_stride);
}

// 16 outputs of kRows rows.
template <Format kFormat, int kRows>
inline void expand_rows(const uint8_t* up, int rank, const Expansion& e, int row, int64_t block, int at) {
    F16 sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = fill(0);
    const float* ranks = e.ranks + row * e.rank_stride + at;
    for (int i = 0; i < rank; i += 2) {
        const Pair pair = pair_at<kFormat>(up, i);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            sums[r] = fma(fill(ranks[r * e.rank_stride + i]), pair.first, sums[r]);
            sums[r] = fma(fill(ranks[r * e.rank_stride + i + 1]), pair.second, sums[r]);
        }
    }
    for (int r = 0; r < kRows; ++r)
        store(e.out + (row + r) * e.out_stride + block * kBlockRows,
              rank > 0 ? scaled<kFormat>(up, sums[r]) : sums[r]);
}

template <Format kFormat>
inline void expand_as(const Expansion& e) {
    for (int64_t block = e.first; block < e.last; ++block) {
        const LowRank& change = *e.change;
        int64_t inside = block, part = 0;
        if (e.interleaved)
            part = block % 2, inside = block / 2;
        else
            while (part < 2 && change.first_blocks[part + 1] > 0 && block >= change.first_blocks[part + 1])
                ++part;
        if (!e.interleaved) inside -= change.first_blocks[part];
        const LowRank::Part& found = change.parts[part];
        const uint8_t* up = found.up + inside * LowRank::block_bytes(kFormat, found.rank);
        ask_ahead(up, LowRank::block_bytes(kFormat, found.rank));
        int row = 0;
        for (; row + 4 <= e.num_rows; row += 4)
            expand_rows<kFormat, 4>(up, found.rank, e, row, block, found.at);
        for (; row + 2 <= e.num_rows; row += 2)
            expand_rows<kFormat, 2>(up, found.rank, e, row, block, found.at);
        for (; row < e.num_rows; ++row) expand_rows<kFormat, 1>(up, found.rank, e, row, block, found.at);
    }
}

inline void expand(const Expansion& e) {
    if (e.change->format == Format::float32) return expand_as<Format::float32>(e);
    if (e.change->format == Format::int8) return expand_as<Format::int8>(e);
    expand_as<Format::bf16>(e);
}

}  // namespace TUITION_ISA
}  // namespace tuition

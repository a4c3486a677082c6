// What a variant adds to a product: up (down x), in lines of 64 bytes that hold as many columns of 16 ranks,
// or of 16 outputs, as their format has in 4 bytes (LowRank in kernels.hpp). Rows of one variant share the
// lines; a row's sums run in one order however many there are.
#pragma once

#include "../kernels.hpp"
#include "prepare.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

#if defined(TUITION_AVX512)
constexpr int kAbreast = LowRank::kPanelBlocks;  // blocks of a panel that are summed at once
#else
constexpr int kAbreast = 1;
#endif

// Bytes that the memory is asked for in advance: pieces are short and lie apart, so the processor foresees
// little of them.
constexpr int64_t kLowRankAhead = 4096;

// `end`: of the piece at hand, where it is known; `next`: what is read then, null for nothing. Numbers,
// because what is asked for may lie behind the end of all.
inline void ask_ahead(const uint8_t* at, int64_t bytes, const uint8_t* end, const uint8_t* next) {
    uintptr_t ahead = reinterpret_cast<uintptr_t>(at) + kLowRankAhead;
    const uintptr_t stop = reinterpret_cast<uintptr_t>(end);
    if (stop != 0 && ahead >= stop) {
        if (next == nullptr) return;
        ahead = reinterpret_cast<uintptr_t>(next) + (ahead - stop);
    }
    for (int64_t i = 0; i < bytes; i += kLine) prefetch(reinterpret_cast<const void*>(ahead + i));
}

// One line of weights, and what it adds to the sums of a row whose values for its columns begin at x.
template <Format kFormat>
struct Lanes;

template <>
struct Lanes<Format::float32> {
    using Left = float;
    using Sum = F16;
    F16 weights;
    explicit Lanes(const uint8_t* line) : weights(load(reinterpret_cast<const float*>(line))) {}
    F16 add(const float* x, F16 sum) const { return fma(fill(*x), weights, sum); }
};

#if defined(TUITION_AMX) || defined(TUITION_BF16_DOT)
template <>
struct Lanes<Format::bf16> {
    using Left = uint16_t;
    using Sum = F16;
    __m512bh weights;
    explicit Lanes(const uint8_t* line) : weights(pairs(line)) {}
    F16 add(const uint16_t* x, F16 sum) const { return {_mm512_dpbf16_ps(sum.v, weights, fill_pair(x))}; }
};
#else
template <>
struct Lanes<Format::bf16> {
    using Left = float;
    using Sum = F16;
    F16 even, odd;
    explicit Lanes(const uint8_t* line) : even(even_half(line)), odd(odd_half(line)) {}
    F16 add(const float* x, F16 sum) const { return fma(fill(x[1]), odd, fma(fill(x[0]), even, sum)); }
};
#endif

inline int32_t four_integers(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return four;
}

template <>
struct Lanes<Format::int8> {
    using Left = int8_t;
    using Sum = I16;
#if defined(TUITION_AVX512)  // the instruction wants unsigned weights: what 128 more add is what sums begin
                             // with
    __m512i weights;
    explicit Lanes(const uint8_t* line)
        : weights(_mm512_xor_si512(_mm512_loadu_si512(line), _mm512_set1_epi8(static_cast<char>(0x80)))) {}
    static I16 begin(int32_t sum_of_left) { return {_mm512_set1_epi32(-128 * sum_of_left)}; }
    I16 add(const int8_t* x, I16 sum) const {
        return {_mm512_dpbusd_epi32(sum.v, weights, _mm512_set1_epi32(four_integers(x)))};
    }
#elif defined(TUITION_AVX2)
    __m256i low, high;
    explicit Lanes(const uint8_t* line)
        : low(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(line))),
          high(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + kLine / 2))) {}
    static I16 begin(int32_t) { return fill_int(0); }
    static __m256i dot(__m256i weights, __m256i four) {
        const __m256i two = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(four, weights));
        return _mm256_madd_epi16(two, _mm256_set1_epi16(1));
    }
    I16 add(const int8_t* x, I16 sum) const {
        const __m256i four = _mm256_set1_epi32(four_integers(x));
        return {_mm256_add_epi32(sum.a, dot(low, four)), _mm256_add_epi32(sum.b, dot(high, four))};
    }
#else
    const uint8_t* weights;
    explicit Lanes(const uint8_t* line) : weights(line) {}
    static I16 begin(int32_t) { return fill_int(0); }
    I16 add(const int8_t* x, I16 sum) const {
        int32_t lanes[16];
        store(lanes, sum);
        for (int i = 0; i < 64; ++i) lanes[i / 4] += static_cast<int8_t>(weights[i]) * x[i % 4];
        return load(lanes);
    }
#endif
};

template <Format kFormat>
using LeftOf = typename Lanes<kFormat>::Left;

// Where the values of a prepared row begin, from a column on; the next row of its tile is `row_step` on.
template <Format kFormat>
inline const LeftOf<kFormat>* left_at(const Rows& rows, int64_t row, int64_t column) {
    if constexpr (kFormat == Format::int8)
        return rows.integers(row, column / kGroup) + column % kGroup;
    else if constexpr (sizeof(LeftOf<kFormat>) == 2)
        return reinterpret_cast<const LeftOf<kFormat>*>(rows.line(row, column / 32)) + column % 32;
    else
        return rows.values + row * rows.columns + column;
}
template <Format kFormat>
inline int64_t row_step(const Rows& rows) {
    if constexpr (sizeof(LeftOf<kFormat>) < 4) return kLine / static_cast<int64_t>(sizeof(LeftOf<kFormat>));
    return rows.columns;
}

// kBlocks blocks, from `block` on, of a panel that is `wide`.
struct PanelPart {
    const uint8_t* lines;
    int64_t wide, block, inputs;
    const uint8_t *end, *next;  // of the panel; what is read then
};

// 16 ranks of kRows rows of a tile: four chains of sums, line by line in turns.
template <Format kFormat, int kRows, int kBlocks>
inline void float_ranks(const PanelPart& p, const Rows& left, int64_t row, F16 (&total)[kRows][kBlocks]) {
    constexpr int kColumns = LowRank::line_columns(kFormat);
    const int64_t step = row_step<kFormat>(left);
    F16 sums[kRows][kBlocks][4];
    for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kBlocks; ++b)
            for (int i = 0; i < 4; ++i) sums[r][b][i] = fill(0);
    const uint8_t* line = p.lines + p.block * kLine;
    for (int64_t column = 0; column < p.inputs; column += 4 * kColumns) {
        const LeftOf<kFormat>* x = left_at<kFormat>(left, row, column);
        ask_ahead(line, 4 * kBlocks * kLine, p.end, p.next);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i, line += p.wide * kLine)
#pragma GCC unroll 3
            for (int b = 0; b < kBlocks; ++b) {
                const Lanes<kFormat> lanes(line + b * kLine);
#pragma GCC unroll 4
                for (int r = 0; r < kRows; ++r)
                    sums[r][b][i] = lanes.add(x + r * step + i * kColumns, sums[r][b][i]);
            }
    }
    for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kBlocks; ++b)
            total[r][b] = (sums[r][b][0] + sums[r][b][1]) + (sums[r][b][2] + sums[r][b][3]);
}

// Likewise, from integers: exact sums of 32 columns, each then scaled.
template <int kRows, int kBlocks>
inline void integer_ranks(const PanelPart& p, const Rows& left, int64_t row, F16 (&total)[kRows][kBlocks]) {
    const int64_t groups = left.groups();
    for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kBlocks; ++b) total[r][b] = fill(0);
    const uint8_t* line = p.lines + (p.wide + p.block) * kLine;
    for (int64_t group = 0; group < p.inputs / kGroup; ++group) {
        const int8_t* x = left.integers(row, group);
        I16 sums[kRows][kBlocks];
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
            for (int b = 0; b < kBlocks; ++b)
                sums[r][b] = Lanes<Format::int8>::begin(left.sums[(row + r) * groups + group]);
        ask_ahead(line, 8 * kBlocks * kLine, p.end, p.next);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i, line += p.wide * kLine)
#pragma GCC unroll 3
            for (int b = 0; b < kBlocks; ++b) {
                const Lanes<Format::int8> lanes(line + b * kLine);
#pragma GCC unroll 4
                for (int r = 0; r < kRows; ++r) sums[r][b] = lanes.add(x + r * kLine + 4 * i, sums[r][b]);
            }
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
            for (int b = 0; b < kBlocks; ++b)
                total[r][b] =
                    fma(to_float(sums[r][b]), fill(left.scales[(row + r) * groups + group]), total[r][b]);
    }
    for (int b = 0; b < kBlocks; ++b) {
        const F16 scale = load(reinterpret_cast<const float*>(p.lines + (p.block + b) * kLine));
        for (int r = 0; r < kRows; ++r) total[r][b] = total[r][b] * scale;
    }
}

template <Format kFormat, int kRows, int kBlocks>
inline void shrink_rows(const PanelPart& p, const Rows& left, int64_t row, float* out, int64_t stride) {
    F16 total[kRows][kBlocks];
    if constexpr (kFormat == Format::int8)
        integer_ranks<kRows, kBlocks>(p, left, row, total);
    else
        float_ranks<kFormat, kRows, kBlocks>(p, left, row, total);
    for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kBlocks; ++b) store(out + r * stride + b * kBlockRows, total[r][b]);
}

// The rows first <= row < last of a tile, as many at once as registers hold.
template <Format kFormat, int kBlocks>
inline void shrink_part(const PanelPart& p, const Shrinking& s, int first, int last) {
    constexpr int kMost = kFormat == Format::int8 || kBlocks == 1 ? 4 : 2;
    float* out = s.out + p.block * kBlockRows;
    int row = first;
    for (; row + kMost <= last; row += kMost)
        shrink_rows<kFormat, kMost, kBlocks>(p, *s.left, row, out + row * s.out_stride, s.out_stride);
    if (kMost > 2 && row + 2 <= last) {
        shrink_rows<kFormat, 2, kBlocks>(p, *s.left, row, out + row * s.out_stride, s.out_stride);
        row += 2;
    }
    for (; row < last; ++row)
        shrink_rows<kFormat, 1, kBlocks>(p, *s.left, row, out + row * s.out_stride, s.out_stride);
}

// All blocks of a panel, kBlocks at a time and then fewer.
template <Format kFormat, int kBlocks>
inline void shrink_panel(PanelPart p, const Shrinking& s, int first, int last) {
    for (; p.block + kBlocks <= p.wide; p.block += kBlocks) shrink_part<kFormat, kBlocks>(p, s, first, last);
    if constexpr (kBlocks > 1) shrink_panel<kFormat, kBlocks - 1>(p, s, first, last);
}

// What `expand` takes of a row, in place of its ranks as floats.
template <Format kFormat>
inline void keep_ranks(const LowRank& change, float* ranks) {
    if constexpr (kFormat == Format::int8) {
        for (const LowRank::Part& part : change.parts) {
            if (part.rank == 0) continue;
            float *const from = ranks + part.at, top = 0;
            for (int i = 0; i < part.rank; ++i) {
                const float size = from[i] < 0 ? -from[i] : from[i];
                top = size > top ? size : top;
            }
            const F16 factor = fill(top > kNothing ? kIntegerMax / top : 0.0f);
            int8_t* const integers = reinterpret_cast<int8_t*>(from + 2);
            int32_t total = 0, lanes[16];
            for (int i = 0; i < part.rank;
                 i += 16) {  // behind what is written: a byte takes the place of four
                store(lanes, to_int(load(from + i) * factor));
                const int count = part.rank - i < 16 ? part.rank - i : 16;
                if (i == 0) from[0] = top > kNothing ? top * (1.0f / kIntegerMax) : 0.0f;
                for (int k = 0; k < count; ++k)
                    integers[i + k] = static_cast<int8_t>(lanes[k]), total += lanes[k];
            }
            std::memcpy(from + 1, &total, 4);
        }
    } else if constexpr (sizeof(LeftOf<kFormat>) == 2) {
        for (int i = 0; i < change.ranks; i += 16)
            store_bf16(reinterpret_cast<uint16_t*>(ranks) + i, load(ranks + i));
    }
}

template <Format kFormat>
inline void shrink_as(const Shrinking& s) {
    const LowRank& change = *s.change;
    const int64_t blocks = change.ranks / kBlockRows, block_bytes = change.down_block_bytes();
    const uint8_t* const end = change.down + change.down_bytes();
    for (int row = s.first, stop; row < s.last; row = stop) {
        stop = row / 16 * 16 + 16 < s.last ? row / 16 * 16 + 16 : s.last;
        for (int64_t block = 0; block < blocks; block += LowRank::kPanelBlocks) {
            const int64_t rest = blocks - block,
                          wide = rest < LowRank::kPanelBlocks ? rest : LowRank::kPanelBlocks;
            const PanelPart p{change.down + block * block_bytes, wide, 0, change.inputs, end, s.next};
            Shrinking now = s;
            now.out += block * kBlockRows;
            shrink_panel<kFormat, kAbreast>(p, now, row, stop);
        }
    }
    for (int row = s.first; row < s.last; ++row) keep_ranks<kFormat>(change, s.out + row * s.out_stride);
}

inline void shrink(const Shrinking& s) {
    if (s.change->format == Format::float32) return shrink_as<Format::float32>(s);
    if (s.change->format == Format::int8) return shrink_as<Format::int8>(s);
    shrink_as<Format::bf16>(s);
}

// 16 outputs of kRows rows. `ranks`: of the first row and of this part, as `keep_ranks` left them.
// `scale`: of integers.
template <Format kFormat, int kRows>
inline void expand_rows(const uint8_t* up, float scale, int rank, const float* ranks, int64_t stride,
                        float* out, int64_t out_stride) {
    constexpr int kColumns = LowRank::line_columns(kFormat);
    typename Lanes<kFormat>::Sum sums[kRows];
    const auto left = [ranks, stride](int r) {
        const float* at = ranks + r * stride;
        return reinterpret_cast<const LeftOf<kFormat>*>(kFormat == Format::int8 ? at + 2 : at);
    };
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
        if constexpr (kFormat == Format::int8) {
            int32_t total;
            std::memcpy(&total, ranks + r * stride + 1, 4);
            sums[r] = Lanes<kFormat>::begin(total);
        } else {
            sums[r] = fill(0);
        }
    }
    for (int i = 0; i < rank; i += kColumns, up += kLine) {
        const Lanes<kFormat> lanes(up);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sums[r] = lanes.add(left(r) + i, sums[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
        if constexpr (kFormat == Format::int8)
            store(out + r * out_stride, to_float(sums[r]) * fill(scale * ranks[r * stride]));
        else
            store(out + r * out_stride, sums[r]);
    }
}

template <Format kFormat>
inline void expand_as(const Expansion& e) {
    const LowRank& change = *e.change;
    const uint8_t* const end = change.up_of(e.last, e.interleaved);
    for (int64_t block = e.first; block < e.last; ++block) {
        const LowRank::Part& part = change.part_of(block, e.interleaved);
        float* out = e.out + block * kBlockRows;
        if (part.rank == 0) {
            for (int row = 0; row < e.num_rows; ++row) store(out + row * e.out_stride, fill(0));
            continue;
        }
        const uint8_t* up = change.up_of(block, e.interleaved);
        ask_ahead(up, LowRank::block_bytes(kFormat, part.rank), end, e.next);
        const float scale =
            kFormat == Format::int8 ? part.scales[change.inside_part(block, e.interleaved)] : 1.0f;
        // bf16 ranks of a row follow each other, so those of a part begin at half the place
        const float* ranks = e.ranks + (sizeof(LeftOf<kFormat>) == 2 ? part.at / 2 : part.at);
        int row = 0;
        for (; row + 4 <= e.num_rows; row += 4)
            expand_rows<kFormat, 4>(up, scale, part.rank, ranks + row * e.rank_stride, e.rank_stride,
                                    out + row * e.out_stride, e.out_stride);
        if (row + 2 <= e.num_rows) {
            expand_rows<kFormat, 2>(up, scale, part.rank, ranks + row * e.rank_stride, e.rank_stride,
                                    out + row * e.out_stride, e.out_stride);
            row += 2;
        }
        if (row < e.num_rows)
            expand_rows<kFormat, 1>(up, scale, part.rank, ranks + row * e.rank_stride, e.rank_stride,
                                    out + row * e.out_stride, e.out_stride);
    }
}

inline void expand(const Expansion& e) {
    if (e.change->format == Format::float32) return expand_as<Format::float32>(e);
    if (e.change->format == Format::int8) return expand_as<Format::int8>(e);
    expand_as<Format::bf16>(e);
}

}  // namespace TUITION_ISA
}  // namespace tuition

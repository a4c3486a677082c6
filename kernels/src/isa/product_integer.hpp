// Products with int8 and int4 weights on vector units; activations are int8 with a scale per row and group.
//
// Per group of 32 columns the sum of weight x activation is an exact integer (int32); it becomes
//   total = total + float(integer sum) * (weight scale * activation scale)      (one fused multiply-add;
//   int4min: then + float(sum of the activation's integers) * (minimum * activation scale))
// group after group. So the result does not depend on how the integers were summed: vector, tile and scalar
// agree.
#pragma once

#include "finish.hpp"

namespace tuition {
namespace TUITION_ISA {

// What of one record of weights matters to the sums of one group.
struct GroupView {
    const uint8_t* lines;    // int8: 8 lines; int4: 4 lines
    const uint8_t* scale;    // 16 float16
    const uint8_t* minimum;  // int4min only
};

template <Format kFormat>
inline GroupView view_group(const uint8_t* record, int group) {
    constexpr int64_t weights = kFormat == Format::int8 ? 1024 : 512;
    return {record + group * weights / 2, record + weights + group * 32,
            record + weights + kLine + group * 32};
}

// Four activations as one integer.
inline int32_t load_quad(const int8_t* x, int row, int quad) {
    int32_t four;
    std::memcpy(&four, x + row * kLine + 4 * quad, 4);
    return four;
}

// Integer sums of one group for kRows rows (64 bytes apart, from `x`) and kBlocks blocks. `sums` are those of
// the rows' integers, `stride` apart. Each line of weights is loaded and unpacked once for all rows, each
// quad of activations once for all blocks.
#if defined(TUITION_AVX512)

// The instruction wants unsigned weights: int8 by adding 128, int4 as stored (0..15). What that adds is what
// sums begin with.
template <Format kFormat, int kRows, int kBlocks>
inline void group_sums(const GroupView (&view)[kBlocks], const int8_t* x, const int32_t* sums, int64_t stride,
                       I16 (&out)[kRows][kBlocks]) {
    constexpr int kShift = kFormat == Format::int8 ? 7 : 3;
    __m512i total[kRows][kBlocks];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
        __m512i start = _mm512_setzero_si512();
        if constexpr (kFormat != Format::int4min)
            start = _mm512_sub_epi32(start, _mm512_slli_epi32(_mm512_set1_epi32(sums[r * stride]), kShift));
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) total[r][b] = start;
    }
    auto add = [&](const __m512i(&w)[kBlocks], int quad) __attribute__((always_inline)) {
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const __m512i four = _mm512_set1_epi32(load_quad(x, r, quad));
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) total[r][b] = _mm512_dpbusd_epi32(total[r][b], w[b], four);
        }
    };
    __m512i w[kBlocks], w4[kBlocks];
    if constexpr (kFormat == Format::int8) {
        const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
#pragma GCC unroll 8
        for (int q = 0; q < 8; ++q) {
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b)
                w[b] = _mm512_xor_si512(_mm512_load_si512(view[b].lines + q * kLine), flip);
            add(w, q);
        }
        (void)w4;
    } else {
        const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) {
                const __m512i both = _mm512_load_si512(view[b].lines + q * kLine);
                w[b] = _mm512_and_si512(both, nibble);
                w4[b] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
            }
            add(w, q);
            add(w4, q + 4);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) out[r][b].v = total[r][b];
}

#elif defined(TUITION_AVX2)

// Sums of pairs are of 16 bits: |int8| x int8 makes at most 2 * 127 * 127, eight of int4 x int8 at most 16 *
// 15 * 127.
template <Format kFormat, int kRows>
inline void half_sums(const uint8_t* lines, const int8_t* x, const int32_t* sums, int64_t stride,
                      __m256i (&total)[kRows]) {
    const __m256i ones = _mm256_set1_epi16(1), nibble = _mm256_set1_epi8(15);
    for (int r = 0; r < kRows; ++r) total[r] = _mm256_setzero_si256();
    for (int q = 0; q < (kFormat == Format::int8 ? 8 : 4); ++q) {
        const __m256i line = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lines + q * kLine));
        if constexpr (kFormat == Format::int8) {
            const __m256i size = _mm256_abs_epi8(line);
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                const __m256i pairs =
                    _mm256_maddubs_epi16(size, _mm256_sign_epi8(_mm256_set1_epi32(load_quad(x, r, q)), line));
                total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(pairs, ones));
            }
        } else {
            const __m256i first = _mm256_and_si256(line, nibble),
                          second = _mm256_and_si256(_mm256_srli_epi16(line, 4), nibble);
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                total[r] = _mm256_add_epi16(
                    total[r], _mm256_maddubs_epi16(first, _mm256_set1_epi32(load_quad(x, r, q))));
                total[r] = _mm256_add_epi16(
                    total[r], _mm256_maddubs_epi16(second, _mm256_set1_epi32(load_quad(x, r, q + 4))));
            }
        }
    }
    if constexpr (kFormat != Format::int8)
        for (int r = 0; r < kRows; ++r) total[r] = _mm256_madd_epi16(total[r], ones);
    if constexpr (kFormat == Format::int4)
        for (int r = 0; r < kRows; ++r)
            total[r] = _mm256_sub_epi32(total[r], _mm256_set1_epi32(8 * sums[r * stride]));
    (void)sums, (void)stride, (void)nibble;
}

template <Format kFormat, int kRows, int kBlocks>
inline void group_sums(const GroupView (&view)[kBlocks], const int8_t* x, const int32_t* sums, int64_t stride,
                       I16 (&out)[kRows][kBlocks]) {
    __m256i total[kRows];
    for (int b = 0; b < kBlocks; ++b) {
        half_sums<kFormat, kRows>(view[b].lines, x, sums, stride, total);
        for (int r = 0; r < kRows; ++r) out[r][b].a = total[r];
        half_sums<kFormat, kRows>(view[b].lines + kLine / 2, x, sums, stride, total);
        for (int r = 0; r < kRows; ++r) out[r][b].b = total[r];
    }
}

#else

template <Format kFormat, int kRows, int kBlocks>
inline void group_sums(const GroupView (&view)[kBlocks], const int8_t* x, const int32_t*, int64_t,
                       I16 (&out)[kRows][kBlocks]) {
    constexpr int kOffset = kFormat == Format::int4 ? 8 : 0;
    for (int r = 0; r < kRows; ++r) {
        const int8_t* at = x + r * kLine;
        for (int b = 0; b < kBlocks; ++b) {
            int32_t total[16] = {};
            for (int q = 0; q < (kFormat == Format::int8 ? 8 : 4); ++q) {
                const uint8_t* line = view[b].lines + q * kLine;
                for (int lane = 0; lane < 16; ++lane) {
                    for (int i = 0; i < 4; ++i) {
                        const uint8_t byte = line[lane * 4 + i];
                        if constexpr (kFormat == Format::int8) {
                            total[lane] += static_cast<int8_t>(byte) * at[4 * q + i];
                        } else {
                            total[lane] += ((byte & 15) - kOffset) * at[4 * q + i] +
                                           ((byte >> 4) - kOffset) * at[4 * q + i + 16];
                        }
                    }
                }
            }
            out[r][b] = load(total);
        }
    }
}

#endif

// Weights to ask of the memory on the way, `lines` with each record. Many rows share the work of fetching the
// next blocks.
struct Ahead {
    const uint8_t* at;
    int64_t lines;
};
constexpr int kStreamAhead =
    1024;  // bytes, for few rows; farther costs int4 a third of its speed on the machine tried

// Sums of kRows rows, all of one tile, by kBlocks neighbouring blocks.
template <Format kFormat, int kRows, int kBlocks>
inline __attribute__((always_inline)) void integer_sums(const Product& p, int row, int64_t block, Ahead ahead,
                                                        F16 (&total)[kRows][kBlocks]) {
    const int64_t groups = p.left->groups(), block_bytes = p.weight->block_bytes();
    const uint8_t* record = p.weight->block(block);
    const int8_t* x = p.left->integers(row, 0);
    const int32_t* sums = p.left->sums + row * groups;
    const float* scales = p.left->scales + row * groups;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) total[r][b] = fill(0);
    for (int64_t group = 0; group < groups; group += 2, record += record_bytes(kFormat), x += 16 * kLine) {
        for (int line = 0; line < ahead.lines; ++line, ahead.at += kLine)
            __builtin_prefetch(
                ahead.at, 0,
                2);  // into the second cache; not a function of its own: g++ 12 drops calls of such
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g, ++sums, ++scales) {
            GroupView view[kBlocks];
            I16 exact[kRows][kBlocks];
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) view[b] = view_group<kFormat>(record + b * block_bytes, g);
            group_sums<kFormat, kRows, kBlocks>(view, x + g * kGroup, sums, groups, exact);
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) {
                const F16 scale = load_float16(view[b].scale);
#pragma GCC unroll 6
                for (int r = 0; r < kRows; ++r) {
                    const F16 own = fill(scales[r * groups]);
                    total[r][b] = fma(to_float(exact[r][b]), scale * own, total[r][b]);
                    if constexpr (kFormat == Format::int4min)
                        total[r][b] = fma(to_float(fill_int(sums[r * groups])),
                                          load_float16(view[b].minimum) * own, total[r][b]);
                }
            }
        }
    }
}

template <Format kFormat, int kRows, int kBlocks>
__attribute__((noinline)) void integer_part(const Product& p, int row, int64_t block, Ahead ahead) {
    F16 total[kRows][kBlocks];
    integer_sums<kFormat, kRows, kBlocks>(p, row, block, ahead, total);
    finish_all(p, row, block, total);
}

// A few rows by two blocks, one after the other: the weights' bytes decide, and memory is fastest in one
// stream.
template <Format kFormat, int kRows>
__attribute__((noinline)) void integer_narrow(const Product& p, int64_t block) {
    F16 total[kRows][2], one[kRows][1];
#pragma GCC unroll 2
    for (int b = 0; b < 2; ++b) {
        const uint8_t* weights = p.weight->block(block + b);
        integer_sums<kFormat, kRows, 1>(p, 0, block + b,
                                        {weights + kStreamAhead, record_bytes(kFormat) / kLine}, one);
        for (int r = 0; r < kRows; ++r) total[r][b] = one[r][0];
    }
    finish_all(p, 0, block, total);
}

// As many rows as `rows` says, at most kMost.
template <Format kFormat, int kMost, int kBlocks>
inline void integer_rows(const Product& p, int row, int rows, int64_t block, Ahead ahead) {
    if (rows == kMost) return integer_part<kFormat, kMost, kBlocks>(p, row, block, ahead);
    if constexpr (kMost > 1) integer_rows<kFormat, kMost - 1, kBlocks>(p, row, rows, block, ahead);
}

template <Format kFormat, int kMost>
inline void integer_narrow_rows(const Product& p, int64_t block) {
    if (p.num_rows == kMost) return integer_narrow<kFormat, kMost>(p, block);
    if constexpr (kMost > 1) integer_narrow_rows<kFormat, kMost - 1>(p, block);
}

#if defined(TUITION_AVX512)
constexpr int kMostRows = 6;  // by two blocks: 12 integer and 12 float sums of 32 registers
#else
constexpr int kMostRows = 4;
#endif
constexpr int64_t kChunkBytes =
    1 << 18;  // activations that pass at a time, beside two blocks of weights in the second cache

inline int smaller(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }

// Rows start..stop by kBlocks blocks, which stay in the caches meanwhile.
template <Format kFormat, int kBlocks>
inline void integer_chunk(const Product& p, int start, int stop, int64_t block) {
    const int64_t lines = kBlocks * p.weight->block_bytes() / kLine,
                  records = p.left->columns / kRecordColumns;
    const int64_t turns = (stop - start + kMostRows - 1) / kMostRows;
    Ahead ahead{p.weight->block(block + kBlocks), (lines + turns * records - 1) / (turns * records)};
    for (int row = start; row < stop;
         ahead.at += records * ahead.lines * kLine) {  // a tile of 16 rows is 6, 5 and 5
        const int left = smaller(16 - row % 16, stop - row), parts = (left + kMostRows - 1) / kMostRows;
        const int rows = (left + parts - 1) / parts;
        integer_rows<kFormat, kMostRows, kBlocks>(p, row, rows, block, ahead);
        row += rows;
    }
}

template <Format kFormat>
inline void multiply_integer_as(const Product& p) {
    constexpr int kNarrowRows =
        kFormat == Format::int8 ? 3 : 2;  // up to which memory and not multiplying decides
    const int chunk = smaller(p.num_rows, round_up(kChunkBytes / p.left->columns + 1, 16));
    for (int start = 0; start < p.num_rows; start += chunk) {
        const int stop = smaller(p.num_rows, start + chunk);
        int64_t block = p.first;
        for (; block + 2 <= p.last; block += 2) {
            if (p.num_rows <= kNarrowRows)
                integer_narrow_rows<kFormat, kNarrowRows>(p, block);
            else
                integer_chunk<kFormat, 2>(p, start, stop, block);
        }
        if (block < p.last) integer_chunk<kFormat, 1>(p, start, stop, block);
    }
}

inline void multiply_integer(const Product& p) {
    if (p.weight->format == Format::int8) return multiply_integer_as<Format::int8>(p);
    if (p.weight->format == Format::int4) return multiply_integer_as<Format::int4>(p);
    multiply_integer_as<Format::int4min>(p);
}

}  // namespace TUITION_ISA
}  // namespace tuition

// Products with int8 and int4 weights on vector units.
//
// Per group of 32 columns the sum of weight x activation is an exact integer (int32); it becomes
//   total = total + float(integer sum) * scale      (one fused multiply-add; int4min: then + float(sum of x) * minimum)
// group after group. So the result does not depend on how the integers were summed: vector, tile and scalar agree.
#pragma once

#include "finish.hpp"

namespace tuition {
namespace TUITION_ISA {

constexpr int kIntegerPrefetch = 2048;

// What of one record of weights matters to the sums of one group.
struct GroupView {
    const uint8_t* lines;      // int8: 8 lines; int4: 4 lines
    const uint8_t* scale;      // 16 float16
    const uint8_t* minimum;    // int4min only
};

template <Format kFormat>
inline GroupView view_group(const uint8_t* record, int group) {
    constexpr int64_t weights = kFormat == Format::int8 ? 1024 : 512;
    return {record + group * weights / 2, record + weights + group * 32, record + weights + kLine + group * 32};
}

#if defined(TUITION_AVX512)

// Integer sum of one group: 256 sum(w high) + sum(w low). Weights are made unsigned for the instruction: int8 by adding
// 128, int4 as stored (0..15); what that adds is taken off through the sum of the activations.
template <Format kFormat>
inline I16 group_sum(const uint8_t* lines, const int8_t* high, const int8_t* low, int32_t sum_of_x) {
    __m512i h = _mm512_setzero_si512(), l = _mm512_setzero_si512();
    auto quad = [](const int8_t* at) { int32_t q; std::memcpy(&q, at, 4); return _mm512_set1_epi32(q); };
    int32_t offset = 0;
    if constexpr (kFormat == Format::int8) {
        const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
#pragma GCC unroll 8
        for (int q = 0; q < 8; ++q) {
            const __m512i w = _mm512_xor_si512(_mm512_load_si512(lines + q * kLine), flip);
            h = _mm512_dpbusd_epi32(h, w, quad(high + 4 * q));
            l = _mm512_dpbusd_epi32(l, w, quad(low + 4 * q));
        }
        offset = -128 * sum_of_x;
    } else {
        const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
            const __m512i both = _mm512_load_si512(lines + q * kLine);
            const __m512i first = _mm512_and_si512(both, nibble);
            const __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
            h = _mm512_dpbusd_epi32(h, first, quad(high + 4 * q));
            l = _mm512_dpbusd_epi32(l, first, quad(low + 4 * q));
            h = _mm512_dpbusd_epi32(h, second, quad(high + 4 * q + 16));
            l = _mm512_dpbusd_epi32(l, second, quad(low + 4 * q + 16));
        }
        if constexpr (kFormat == Format::int4) offset = -8 * sum_of_x;
    }
    const __m512i both = _mm512_add_epi32(_mm512_slli_epi32(h, 8), l);
    return {_mm512_add_epi32(both, _mm512_set1_epi32(offset))};
}

#else

// The same integer, with multiplications of 16 bits.
template <Format kFormat>
inline I16 group_sum(const uint8_t* lines, const int16_t* whole) {
#if defined(TUITION_AVX2)
    // 8 partial sums of pairs per register: rows 2i, 2i + 1 of the block, two halves of a quad each.
    __m256i part[4];
    for (int i = 0; i < 4; ++i) part[i] = _mm256_setzero_si256();
    auto add_quad = [&part](__m128i four_rows, int i, __m256i x) {   // 4 rows x 4 columns of int8
        part[i] = _mm256_add_epi32(part[i], _mm256_madd_epi16(_mm256_cvtepi8_epi16(four_rows), x));
    };
    auto quad = [whole](int q) { int64_t x; std::memcpy(&x, whole + 4 * q, 8); return _mm256_set1_epi64x(x); };
    constexpr int kLines = kFormat == Format::int8 ? 8 : 4;
    for (int q = 0; q < kLines; ++q) {
        const __m128i* at = reinterpret_cast<const __m128i*>(lines + q * kLine);
        const __m256i x = quad(q);
        if constexpr (kFormat == Format::int8) {
            for (int i = 0; i < 4; ++i) add_quad(_mm_loadu_si128(at + i), i, x);
        } else {
            const __m256i x4 = quad(q + 4);
            const __m128i nibble = _mm_set1_epi8(15), eight = _mm_set1_epi8(kFormat == Format::int4 ? 8 : 0);
            for (int i = 0; i < 4; ++i) {
                const __m128i both = _mm_loadu_si128(at + i);
                add_quad(_mm_sub_epi8(_mm_and_si128(both, nibble), eight), i, x);
                add_quad(_mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(both, 4), nibble), eight), i, x4);
            }
        }
    }
    // Add the two halves of each row's quad; hadd works per 128 bits, the permutation restores the order of rows.
    const __m256i a = _mm256_permute4x64_epi64(_mm256_hadd_epi32(part[0], part[1]), 0xd8);
    const __m256i b = _mm256_permute4x64_epi64(_mm256_hadd_epi32(part[2], part[3]), 0xd8);
    return {a, b};
#else
    int32_t total[16] = {};
    constexpr int kLines = kFormat == Format::int8 ? 8 : 4;
    for (int q = 0; q < kLines; ++q) {
        const uint8_t* line = lines + q * kLine;
        for (int row = 0; row < 16; ++row) {
            for (int i = 0; i < 4; ++i) {
                const uint8_t byte = line[row * 4 + i];
                if constexpr (kFormat == Format::int8) {
                    total[row] += static_cast<int8_t>(byte) * whole[4 * q + i];
                } else {
                    constexpr int kOffset = kFormat == Format::int4 ? 8 : 0;
                    total[row] += ((byte & 15) - kOffset) * whole[4 * q + i];
                    total[row] += ((byte >> 4) - kOffset) * whole[4 * q + i + 16];
                }
            }
        }
    }
    return load(total);
#endif
}

#endif

template <Format kFormat, int kRows>
inline void integer_block(const Product& p, int row, int64_t block, F16* result) {
    const int64_t columns = p.left->columns, groups = columns / kGroup;
    const uint8_t* record = p.weight->block(block);
    F16 total[kRows];
    for (int r = 0; r < kRows; ++r) total[r] = fill(0);
    for (int64_t column = 0; column < columns; column += kRecordColumns, record += record_bytes(kFormat)) {
        for (int ahead = 0; ahead < record_bytes(kFormat); ahead += kLine) prefetch(record + kIntegerPrefetch + ahead);
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g) {
            const GroupView view = view_group<kFormat>(record, g);
            const F16 scale = load_float16(view.scale);
            const int64_t at = column + g * kGroup;
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                const int32_t sum_of_x = p.left->sums[(row + r) * groups + at / kGroup];
#if defined(TUITION_AVX512)
                const int8_t* x = reinterpret_cast<const int8_t*>(p.left->line(row + r, at / kGroup));
                const I16 exact = group_sum<kFormat>(view.lines, x, x + kGroup, sum_of_x);
#else
                const I16 exact = group_sum<kFormat>(view.lines, p.left->whole + (row + r) * columns + at);
#endif
                total[r] = fma(to_float(exact), scale, total[r]);
                if constexpr (kFormat == Format::int4min)
                    total[r] = fma(to_float(fill_int(sum_of_x)), load_float16(view.minimum), total[r]);
                (void)sum_of_x;
            }
        }
    }
    for (int r = 0; r < kRows; ++r) result[r] = total[r] * fill(p.left->scales[row + r]);
}

template <Format kFormat, int kRows>
inline void integer_part(const Product& p, int row, int64_t block) {
    F16 first[kRows], second[kRows];
    integer_block<kFormat, kRows>(p, row, block, first);
    if (p.ending == Ending::gate) {
        integer_block<kFormat, kRows>(p, row, block + 1, second);
        for (int r = 0; r < kRows; ++r) finish_gate(p, row + r, block, first[r], second[r]);
    } else {
        for (int r = 0; r < kRows; ++r) finish(p, row + r, block, first[r]);
    }
}

template <Format kFormat>
inline void multiply_integer_as(const Product& p) {
    const int64_t step = p.ending == Ending::gate ? 2 : 1;
    for (int64_t block = p.first; block < p.last; block += step) {
        int row = 0;
        for (; row + 4 <= p.num_rows; row += 4) integer_part<kFormat, 4>(p, row, block);
        for (; row + 2 <= p.num_rows; row += 2) integer_part<kFormat, 2>(p, row, block);
        for (; row < p.num_rows; ++row) integer_part<kFormat, 1>(p, row, block);
    }
}

inline void multiply_integer(const Product& p) {
    if (p.weight->format == Format::int8) return multiply_integer_as<Format::int8>(p);
    if (p.weight->format == Format::int4) return multiply_integer_as<Format::int4>(p);
    multiply_integer_as<Format::int4min>(p);
}

}  // namespace TUITION_ISA
}  // namespace tuition

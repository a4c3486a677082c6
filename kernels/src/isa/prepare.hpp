// Turn a row of float activations into the left operand of a product (see Rows in kernels.hpp).
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

// Largest magnitude of the 16-bit integers: 256 high + low with high, low in -128..127 must hold it.
#if defined(TUITION_AMX) || defined(TUITION_BF16_DOT)   // products read bf16 from tiles
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

constexpr float kWholeMax = 32512.0f;

// x = 256 high + low with low in -128..127, so high = (x + 128) >> 8.
inline void prepare_integers(const float* x, int columns, Rows& rows, int row) {
    F16 largest = fill(0);
    for (int i = 0; i < columns; i += 16) largest = max(largest, abs(load(x + i)));
    const float top = peak(largest);
    const float inverse = top > 0 ? kWholeMax / top : 0.0f;
    rows.scales[row] = top / kWholeMax;
    const F16 factor = fill(inverse);
    int16_t* whole = rows.whole + row * rows.columns;
    int32_t* sums = rows.sums + row * (rows.columns / kGroup);
    for (int group = 0; group < rows.columns / kGroup; ++group) {
        int32_t total = 0;
        uint8_t* line = rows.line(row, group);
        for (int i = group * kGroup; i < (group + 1) * kGroup; i += 16) {
            const I16 value = i < columns ? to_int(load(x + i) * factor) : fill_int(0);
#if defined(TUITION_AVX512)
            const __m512i top8 = _mm512_srai_epi32(_mm512_add_epi32(value.v, _mm512_set1_epi32(128)), 8);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(line + i % kGroup), _mm512_cvtepi32_epi8(top8));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(line + kGroup + i % kGroup), _mm512_cvtepi32_epi8(value.v));
            total += _mm512_reduce_add_epi32(value.v);
#else
            int32_t lanes[16];
            store(lanes, value);
            for (int j = 0; j < 16; ++j) {
                whole[i + j] = static_cast<int16_t>(lanes[j]);
                total += lanes[j];
            }
#endif
        }
        sums[group] = total;
        (void)line;
    }
    (void)whole;
}

inline void prepare(const float* x, int columns, Format format, Rows& rows, int row, bool alone) {
    if (is_integer(format)) return prepare_integers(x, columns, rows, row);
    float* values = rows.values + row * rows.columns;
    if (format == Format::float32) {
        for (int i = 0; i < columns; i += 16) store(values + i, load(x + i));
        return;
    }
    for (int i = 0; i < columns; i += 16) {
        const F16 value = load(x + i);
        store_bf16(reinterpret_cast<uint16_t*>(rows.line(row, i / 32)) + i % 32, value);
        if (!kHasTiles || alone) store(values + i, rounded_to_bf16(value));
    }
}

}  // namespace TUITION_ISA
}  // namespace tuition

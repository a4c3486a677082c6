// Turn a row of float activations into the left operand of a product (see Rows in kernels.hpp).
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

#if defined(TUITION_AMX) || defined(TUITION_BF16_DOT)  // products read bf16 from tiles
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

constexpr float kIntegerMax = 127.0f;
constexpr float kNothing =
    1e-30f;  // groups whose largest value is below this are taken as zeros: 127 / top is finite

// Largest lane; which comes first changes no bit.
inline float largest_lane(F16 a) {
#if defined(TUITION_AVX512)
    return _mm512_reduce_max_ps(a.v);
#elif defined(TUITION_AVX2)
    const __m256 eight = _mm256_max_ps(a.a, a.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
#else
    return peak(a);
#endif
}

// Keep 32 integers of -127..127 as bytes; returns their sum.
inline int32_t store_integers(int8_t* at, I16 left, I16 right) {
#if defined(TUITION_AVX512)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtepi32_epi8(left.v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 16), _mm512_cvtepi32_epi8(right.v));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(left.v, right.v));
#else
    int32_t lanes[32], total = 0;
    store(lanes, left), store(lanes + 16, right);
    for (int i = 0; i < 32; ++i) at[i] = static_cast<int8_t>(lanes[i]), total += lanes[i];
    return total;
#endif
}

// x = scale * q with q in -127..127 and a scale for each group, so that one large value coarsens 31 others
// and not the whole row. Nothing depends on other rows.
inline void prepare_integers(const float* x, int columns, Rows& rows, int row) {
    const int64_t groups = rows.groups();
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t at = group * kGroup;
        const F16 left = at < columns ? load(x + at) : fill(0),
                  right = at + 16 < columns ? load(x + at + 16) : fill(0);
        const float top = largest_lane(max(abs(left), abs(right)));
        const F16 factor = fill(top > kNothing ? kIntegerMax / top : 0.0f);
        rows.scales[row * groups + group] = top > kNothing ? top * (1.0f / kIntegerMax) : 0.0f;
        rows.sums[row * groups + group] =
            store_integers(rows.integers(row, group), to_int(left * factor), to_int(right * factor));
    }
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

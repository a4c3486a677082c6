// What this processor can do at best: reading memory, and multiplying. The roofline that steps are compared with.
#pragma once

#include "../kernels.hpp"
#include "tiles.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

// Read every line once; the result keeps the compiler from leaving it out.
inline uint64_t read_all(const uint8_t* data, int64_t bytes) {
    I16 a = fill_int(0), b = a, c = a, d = a;
    const int32_t* at = reinterpret_cast<const int32_t*>(data);
    for (int64_t i = 0; i + 256 <= bytes; i += 256, at += 64) {
        for (int line = 0; line < 4; ++line) prefetch(reinterpret_cast<const uint8_t*>(at) + 4096 + line * 64);
        a = a | load(at), b = b | load(at + 16), c = c | load(at + 32), d = d | load(at + 48);
    }
    int32_t lanes[16];
    store(lanes, (a | b) | (c | d));
    uint64_t total = 0;
    for (int i = 0; i < 16; ++i) total += static_cast<uint32_t>(lanes[i]);
    return total;
}

// Multiply-adds on registers alone; returns operations (a multiply-add is two).
inline double matrix_work(int kind, int64_t rounds) {
#if defined(TUITION_AMX)
    if (kind != static_cast<int>(Format::float32)) {
        configure_full();
        for (int64_t i = 0; i < rounds; ++i) {
            if (kind == static_cast<int>(Format::bf16)) {
                tile_bf16<0, 4, 6>(), tile_bf16<1, 4, 7>(), tile_bf16<2, 5, 6>(), tile_bf16<3, 5, 7>();
            } else {
                tile_int8<0, 4, 6>(), tile_int8<1, 4, 7>(), tile_int8<2, 5, 6>(), tile_int8<3, 5, 7>();
            }
        }
        release_tiles();
        return static_cast<double>(rounds) * 4 * 2 * 16 * 16 * (kind == static_cast<int>(Format::bf16) ? 32 : 64);
    }
#endif
#if defined(TUITION_BF16_DOT)
    if (kind == static_cast<int>(Format::bf16)) {
        __m512 total[10];
        __m512i x = _mm512_set1_epi32(0x3f803f80);
#pragma GCC unroll 10
        for (int i = 0; i < 10; ++i) total[i] = _mm512_setzero_ps();
        for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
            for (int j = 0; j < 10; ++j) total[j] = _mm512_dpbf16_ps(total[j], reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(x));
            asm volatile("" : "+v"(x));
        }
#pragma GCC unroll 10
        for (int i = 1; i < 10; ++i) total[0] = _mm512_add_ps(total[0], total[i]);
        asm volatile("" : : "v"(total[0]));
        return static_cast<double>(rounds) * 10 * 2 * 32;
    }
#endif
#if defined(TUITION_AVX512)
    if (kind == static_cast<int>(Format::int8)) {
        __m512i total[10], x = _mm512_set1_epi8(1);
#pragma GCC unroll 10
        for (int i = 0; i < 10; ++i) total[i] = _mm512_setzero_si512();
        for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
            for (int j = 0; j < 10; ++j) total[j] = _mm512_dpbusd_epi32(total[j], x, x);
            asm volatile("" : "+v"(x));
        }
#pragma GCC unroll 10
        for (int i = 1; i < 10; ++i) total[0] = _mm512_add_epi32(total[0], total[i]);
        asm volatile("" : : "v"(total[0]));
        return static_cast<double>(rounds) * 10 * 2 * 64;
    }
#endif
    F16 total[10], x = fill(1.0f), y = fill(0.5f);
    for (int i = 0; i < 10; ++i) total[i] = fill(0);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
        for (int j = 0; j < 10; ++j) total[j] = fma(total[j], x, y);
    }
    F16 all = total[0];
    for (int i = 1; i < 10; ++i) all = all + total[i];
    volatile float kept = sum(all);
    (void)kept, (void)kind;
    return static_cast<double>(rounds) * 10 * 2 * 16;
}

}  // namespace TUITION_ISA
}  // namespace tuition

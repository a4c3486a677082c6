// What this processor can do at best: reading memory, and multiplying. The roofline that steps are compared
// with.
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
        for (int line = 0; line < 4; ++line)
            prefetch(reinterpret_cast<const uint8_t*>(at) + 4096 + line * 64);
        a = a | load(at), b = b | load(at + 16), c = c | load(at + 32), d = d | load(at + 48);
    }
    int32_t lanes[16];
    store(lanes, (a | b) | (c | d));
    uint64_t total = 0;
    for (int i = 0; i < 16; ++i) total += static_cast<uint32_t>(lanes[i]);
    return total;
}

#if defined(TUITION_AVX512)

// Twelve chains hide the latency of any of these instructions; they pass through an empty statement, or the
// compiler would see twelve equal sums and compute one.
template <typename Sum, typename Step>
inline double work_on_chains(int64_t rounds, int multiply_adds, Step step) {
    Sum a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{}, i{}, j{}, k{}, l{};
    __m512i x = _mm512_setzero_si512();
    for (int64_t round = 0; round < rounds; ++round) {
        asm volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(x));
        asm volatile("" : "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k), "+v"(l));
        a = step(a, x), b = step(b, x), c = step(c, x), d = step(d, x), e = step(e, x), f = step(f, x);
        g = step(g, x), h = step(h, x), i = step(i, x), j = step(j, x), k = step(k, x), l = step(l, x);
    }
    asm volatile("" : : "v"(a), "v"(b), "v"(c), "v"(d), "v"(e), "v"(f));
    asm volatile("" : : "v"(g), "v"(h), "v"(i), "v"(j), "v"(k), "v"(l));
    return static_cast<double>(rounds) * 12 * 2 * multiply_adds;
}

#else

constexpr int kChains = 6;  // of two registers each: what 16 registers hold beside the operands

#endif

// Multiply-adds on registers alone; returns operations (a multiply-add is two).
inline double matrix_work(int kind, int64_t rounds) {
#if defined(TUITION_AMX)
    if (kind != static_cast<int>(Format::float32)) {
#if defined(TUITION_EMULATE_TILES)
        rounds = rounds / 1000 + 1;  // plain loops are run, not measured
#endif
        configure_full();
        for (int64_t i = 0; i < rounds; ++i) {
            if (kind == static_cast<int>(Format::bf16)) {
                tile_bf16<0, 4, 6>(), tile_bf16<1, 4, 7>(), tile_bf16<2, 5, 6>(), tile_bf16<3, 5, 7>();
            } else {
                tile_int8<0, 4, 6>(), tile_int8<1, 4, 7>(), tile_int8<2, 5, 6>(), tile_int8<3, 5, 7>();
            }
        }
        release_tiles();
        return static_cast<double>(rounds) * 4 * 2 * 16 * 16 *
               (kind == static_cast<int>(Format::bf16) ? 32 : 64);
    }
#endif
#if defined(TUITION_AVX512)
    if (kind == static_cast<int>(Format::int8))
        return work_on_chains<__m512i>(rounds, 64,
                                       [](__m512i sum, __m512i x) { return _mm512_dpbusd_epi32(sum, x, x); });
#endif
#if defined(TUITION_BF16_DOT)
    if (kind == static_cast<int>(Format::bf16))
        return work_on_chains<__m512>(rounds, 32, [](__m512 sum, __m512i x) {
            return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(x));
        });
#endif
#if defined(TUITION_AVX512)
    return work_on_chains<__m512>(rounds, 16, [](__m512 sum, __m512i x) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(x), sum);
    });
#else
    (void)kind;
    volatile float one = 1.0f,
                   half = 0.5f;  // unknown, and no two lanes alike, or the compiler would compute less
    float begin[16 + kChains];
    for (int i = 0; i < 16 + kChains; ++i) begin[i] = static_cast<float>(i) * half;
    F16 total[kChains], x = fill(one), y = fill(half);
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) total[i] = load(begin + i);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < kChains; ++j) total[j] = fma(total[j], x, y);
    }
    F16 all = total[0];
#pragma GCC unroll 8
    for (int i = 1; i < kChains; ++i) all = all + total[i];
    volatile float kept = sum(all);
    (void)kept;
    return static_cast<double>(rounds) * kChains * 2 * 16;
#endif
}

}  // namespace TUITION_ISA
}  // namespace tuition

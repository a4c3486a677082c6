// Configuration of the matrix unit's eight tile registers (16 rows of 64 bytes at most).
#pragma once

#include "vec.hpp"

#if defined(TUITION_AMX)
namespace tuition {
namespace TUITION_ISA {

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

#if defined(TUITION_EMULATE_TILES)

// The matrix unit in plain loops, by Intel's descriptions, so that everything built on it runs under tests
// and sanitizers on any machine with AVX-512 BF16: it proves layout and arithmetic, not silicon and not
// speed. What the processor would refuse (a tile that is not configured, shapes that do not fit) ends the
// program.
struct EmulatedUnit {
    TileConfig config;
    alignas(64) uint8_t tile[8][16][64];
};
static thread_local EmulatedUnit unit{};

inline void require(bool fits) {
    if (!fits) __builtin_trap();
}
inline void load_config(const TileConfig& config) {
    require(config.palette == 1);
    unit.config = config;
    std::memset(unit.tile, 0, sizeof unit.tile);
}
inline void release_tiles() {
    unit.config = {};
    std::memset(unit.config.rows, 0, sizeof unit.config.rows);
}
template <int kTile>
inline void tile_zero() {
    require(unit.config.rows[kTile] > 0);
    std::memset(unit.tile[kTile], 0, sizeof unit.tile[kTile]);
}
template <int kTile>
inline void tile_load(const void* at, int64_t stride) {
    tile_zero<kTile>();
    for (int row = 0; row < unit.config.rows[kTile]; ++row)
        std::memcpy(unit.tile[kTile][row], static_cast<const uint8_t*>(at) + row * stride,
                    unit.config.row_bytes[kTile]);
}
template <int kTile>
inline void tile_store(void* at, int64_t stride) {
    require(unit.config.rows[kTile] > 0);
    for (int row = 0; row < unit.config.rows[kTile]; ++row)
        std::memcpy(static_cast<uint8_t*>(at) + row * stride, unit.tile[kTile][row],
                    unit.config.row_bytes[kTile]);
}
template <int kSum, int kLeft, int kRight>
inline void require_shapes() {
    const TileConfig& c = unit.config;
    require(c.rows[kSum] > 0 && c.rows[kSum] == c.rows[kLeft] && c.row_bytes[kLeft] == 4 * c.rows[kRight]);
    require(c.row_bytes[kSum] == 64 && c.row_bytes[kRight] == 64);
}
template <int kSum, int kLeft, int kRight>
inline void tile_bf16() {
    require_shapes<kSum, kLeft, kRight>();
    for (int row = 0; row < unit.config.rows[kSum]; ++row) {
        F16 even = fill(0), odd = fill(0);
        for (int pair = 0; pair < unit.config.rows[kRight]; ++pair) {
            uint32_t both;
            std::memcpy(&both, unit.tile[kLeft][row] + 4 * pair, 4);
            const F16 left_even = as_float(fill_int(static_cast<int32_t>(both << 16)));
            const F16 left_odd = as_float(fill_int(static_cast<int32_t>(both & 0xffff0000u)));
            even = fma(left_even, even_half(unit.tile[kRight][pair]), even);
            odd = fma(left_odd, odd_half(unit.tile[kRight][pair]), odd);
        }
        float* sums = reinterpret_cast<float*>(unit.tile[kSum][row]);
        store(sums, load(sums) + (even + odd));
    }
}
template <int kSum, int kLeft, int kRight>
inline void tile_int8() {
    require_shapes<kSum, kLeft, kRight>();
    for (int row = 0; row < unit.config.rows[kSum]; ++row) {
        int32_t* sums = reinterpret_cast<int32_t*>(unit.tile[kSum][row]);
        for (int quad = 0; quad < unit.config.rows[kRight]; ++quad) {
            const int8_t* left = reinterpret_cast<const int8_t*>(unit.tile[kLeft][row]) + 4 * quad;
            const int8_t* right = reinterpret_cast<const int8_t*>(unit.tile[kRight][quad]);
            for (int n = 0; n < 16; ++n)
                for (int i = 0; i < 4; ++i) sums[n] += left[i] * right[4 * n + i];
        }
    }
}

#else

// Written as assembly, so that every one states what it reads: g++ 12 declares only 8 of the 64 bytes of the
// configuration as read by its intrinsic (and drops stores to the rest), and nothing as read by a tile load.
inline void load_config(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
inline void release_tiles() { asm volatile("tilerelease"); }
template <int kTile>
inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
inline void tile_load(const void* at, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(at), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void tile_store(void* at, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(at), "r"(stride), "i"(kTile) : "memory");
}
// sum += left x right
template <int kSum, int kLeft, int kRight>
inline void tile_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}
template <int kSum, int kLeft, int kRight>
inline void tile_int8() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

#endif

// All eight full: products in bf16.
inline void configure_full() {
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    load_config(config);
}

// Attention in bf16: 0..3 results and 4 left operands of `rows` rows, the others full.
inline void configure_rows(int rows) {
    TileConfig config;
    for (int i = 0; i < 8; ++i)
        config.row_bytes[i] = 64, config.rows[i] = static_cast<uint8_t>(i < 5 ? rows : 16);
    load_config(config);
}

// Integer products of one group of 32 columns: 0..3 results, 4 and 5 activations (32 bytes a row), 6 and 7
// weights (8 lines).
inline void configure_groups() {
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    config.row_bytes[4] = config.row_bytes[5] = 32;
    config.rows[6] = config.rows[7] = 8;
    load_config(config);
}

}  // namespace TUITION_ISA
}  // namespace tuition
#endif

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

// Written as assembly, so that every one states what it reads: g++ 12 declares only 8 of the 64 bytes of the
// configuration as read by its intrinsic (and drops stores to the rest), and nothing as read by a tile load.
inline void load_config(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
inline void release_tiles() { asm volatile("tilerelease"); }
template <int kTile> inline void tile_zero() { asm volatile("tilezero %%tmm%c0" : : "i"(kTile)); }
template <int kTile> inline void tile_load(const void* at, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(at), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile> inline void tile_store(void* at, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(at), "r"(stride), "i"(kTile) : "memory");
}
// sum += left x right
template <int kSum, int kLeft, int kRight> inline void tile_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}
template <int kSum, int kLeft, int kRight> inline void tile_int8() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

// All eight full: products in bf16.
inline void configure_full() {
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    load_config(config);
}

// Attention in bf16: 0..3 results and 4 left operands of `rows` rows, the others full.
inline void configure_rows(int rows) {
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = static_cast<uint8_t>(i < 5 ? rows : 16);
    load_config(config);
}

// Integer products of one group of 32 columns: 0..3 results, 4 and 5 activations (32 bytes a row), 6 and 7 weights
// (8 lines).
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

// Writing keys and values of one position into the cache (laid out in cache.hpp).
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

inline void store_key(const Cache& cache, int layer, int block, int head, int offset, const float* key,
                      int head_dim) {
    uint8_t* base =
        cache.keys(layer, block, head) + int64_t{offset / 16} * 16 * cache.head_dim * cache.value_bytes();
    const int lane = offset % 16;
    if (!cache.half) {
        float* keys = reinterpret_cast<float*>(base);
        for (int i = 0; i < head_dim; ++i) keys[i * 16 + lane] = key[i];
        return;
    }
    for (int i = 0; i < head_dim; i += 16) {
        uint16_t half[16];
        store_bf16(half, load(key + i));
        for (int j = 0; j < 8; ++j) std::memcpy(base + (i / 2 + j) * kLine + lane * 4, half + 2 * j, 4);
    }
}

inline void store_value(const Cache& cache, int layer, int block, int head, int offset, const float* value,
                        int head_dim) {
    uint8_t* base = cache.values(layer, block, head);
    if (offset % kKeyTile ==
        0) {  // what an earlier owner of the block left must not meet a weight of zero as NaN
        const int64_t tile = int64_t{kKeyTile} * cache.head_dim * cache.value_bytes();
        std::memset(base + offset / kKeyTile * tile, 0, static_cast<size_t>(tile));
    }
    if (!cache.half) {
        float* values = reinterpret_cast<float*>(base) + int64_t{offset} * cache.head_dim;
        for (int i = 0; i < head_dim; i += 16) store(values + i, load(value + i));
        return;
    }
    base += int64_t{offset / kKeyTile} * kKeyTile * cache.head_dim * 2 + offset % kKeyTile / 2 * kLine;
    for (int i = 0; i < head_dim;
         i += 16) {  // one line holds 16 dimensions of two positions; ours is one half of each
        int32_t* line = reinterpret_cast<int32_t*>(base + int64_t{i / 16} * 16 * kLine);
        const I16 half = to_bf16_lanes(load(value + i)), old = load(line);
        int32_t lanes[16];
        store(lanes, half);
        if (offset % 2 == 0) {
            store(line, (old & fill_int(static_cast<int32_t>(0xffff0000u))) | half);
        } else {
            for (int j = 0; j < 16; ++j)
                lanes[j] = static_cast<int32_t>(static_cast<uint32_t>(lanes[j]) << 16);
            store(line, (old & fill_int(0xffff)) | load(lanes));
        }
    }
}

}  // namespace TUITION_ISA
}  // namespace tuition

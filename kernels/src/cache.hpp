// Where keys and values of earlier tokens lie.
//
// The cache is cut into blocks of `block_size` positions (a multiple of 32). One block of one layer holds,
// for each key-value head, its keys and then its values:
//
//   bf16     keys    [block_size / 16][head pairs][16 positions][2]        one line = one pair of dimensions,
//   16 keys
//            values  [block_size / 32][head_dim / 16][16 pairs of positions][16 dimensions][2]
//   float32  keys    [block_size / 16][head_dim][16 positions]
//            values  [block_size][head_dim]
//
// Both bf16 forms are right operands of matrix tiles (16 lines: 32 dimensions x 16 keys, or 32 positions x 16
// dimensions). head_dim is padded to 32 with zeros that are written once, when the cache is made.
#pragma once

#include <cstdint>

#include "layout.hpp"

namespace tuition {

constexpr int kKeyTile = 32;  // positions that attention takes at a time
constexpr int kSpan = 256;    // positions whose softmax is computed together; spans are then merged in order

struct Cache {
    uint8_t* data = nullptr;
    bool half = true;  // bf16, else float32
    int num_layers = 0, num_blocks = 0, num_kv_heads = 0, block_size = 0;
    int head_dim = 0;  // padded to 32

    int64_t value_bytes() const { return half ? 2 : 4; }
    int64_t head_bytes() const {
        return int64_t{block_size} * head_dim * value_bytes();
    }  // keys alone, or values
    int64_t block_bytes() const { return 2 * head_bytes() * num_kv_heads; }
    int64_t bytes() const { return block_bytes() * num_blocks * num_layers; }
    uint8_t* keys(int layer, int block, int head) const {
        return data + (int64_t{layer} * num_blocks + block) * block_bytes() + 2 * head_bytes() * head;
    }
    uint8_t* values(int layer, int block, int head) const { return keys(layer, block, head) + head_bytes(); }
};

}  // namespace tuition

// Attention of up to 16 queries over one span of keys on the matrix unit. Bit for bit what attention.hpp
// gives.
#pragma once

#include "softmax.hpp"
#include "tiles.hpp"

#if defined(TUITION_AMX)
namespace tuition {
namespace TUITION_ISA {

constexpr int kTileQueries = 4;  // from which tiles are worth it; the bits are the same

inline void attend_span_tiles(const SpanOfQueries& s, const SpanWeights& weights) {
    const int dim = s.cache->head_dim;
    configure_rows(s.num_queries);
    for (int p = s.begin; p < s.end; p += kKeyTile) {  // scores of two tiles of 16 keys
        const uint8_t* keys = key_tile(s, p);
        tile_zero<0>(), tile_zero<1>();
        for (int i = 0; i < dim; i += 32) {
            tile_load<4>(s.halves + i, s.query_stride * 2);
            tile_load<5>(keys + int64_t{i / 32} * 1024, kLine);
            tile_bf16<0, 4, 5>();
            tile_load<6>(keys + int64_t{dim} * 32 + int64_t{i / 32} * 1024, kLine);
            tile_bf16<1, 4, 6>();
        }
        tile_store<0>(weights.scores + p - s.begin, kSpan * 4);
        tile_store<1>(weights.scores + p - s.begin + 16, kSpan * 4);
    }
    soften_all(s, weights, true);
    for (int i = 0; i < dim; i += 32) {  // weights x values, two tiles of 16 dimensions
        tile_zero<2>(), tile_zero<3>();
        for (int p = s.begin; p < s.end; p += kKeyTile) {
            const uint8_t* values = value_tile(s, p) + int64_t{i / 16} * 1024;
            tile_load<4>(weights.halves + p - s.begin, kSpan * 2);
            tile_load<5>(values, kLine);
            tile_bf16<2, 4, 5>();
            tile_load<6>(values + 1024, kLine);
            tile_bf16<3, 4, 6>();
        }
        tile_store<2>(s.sums + i, s.sum_stride * 4);
        tile_store<3>(s.sums + i + 16, s.sum_stride * 4);
    }
}

}  // namespace TUITION_ISA
}  // namespace tuition
#endif

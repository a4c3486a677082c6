// Attention of up to 16 consecutive rows of one sequence on the matrix unit: chunks of prompts. Bit for bit what
// attention.hpp gives each row alone.
#pragma once

#include "attention.hpp"
#include "tiles.hpp"

#if defined(TUITION_AMX)
namespace tuition {
namespace TUITION_ISA {

inline void attend_tile(const TileOfRows& t) {
    const Cache& cache = *t.cache;
    const int dim = cache.head_dim, last = t.first_position + t.num_rows;   // keys below `last` exist
    float* scores = t.scratch;                                              // [16][kSpan]
    uint16_t* halves = reinterpret_cast<uint16_t*>(t.scratch + 16 * kSpan);  // [16][kSpan]
    float* sums = t.scratch + 16 * kSpan * 3 / 2;                            // [16][dim]
    float* totals = sums + 16 * dim;                                         // [16][dim]
    float peaks[16], masses[16];
    bool begun[16] = {};
    auto lowest = [&t](int position) { return t.window > 0 && position + 1 > t.window ? position + 1 - t.window : 0; };
    configure_full();
    for (int span = lowest(t.first_position) / kSpan * kSpan; span < last; span += kSpan) {
        const int low = lowest(t.first_position);
        const int begin = low > span ? low / kKeyTile * kKeyTile : span;
        int end = span + kSpan < last ? span + kSpan : last;
        end = (end + kKeyTile - 1) / kKeyTile * kKeyTile;
        for (int p = begin; p < end; p += kKeyTile) {   // scores of two tiles of 16 keys
            const int offset = p % cache.block_size;
            const uint8_t* keys = cache.keys(t.layer, t.table[p / cache.block_size], t.kv_head) + int64_t{offset} * dim * 2;
            tile_zero<0>(), tile_zero<1>();
            for (int i = 0; i < dim; i += 32) {
                tile_load<4>(t.queries + i, t.query_stride * 2);
                tile_load<5>(keys + int64_t{i / 32} * 1024, kLine);
                tile_bf16<0, 4, 5>();
                tile_load<6>(keys + int64_t{dim} * 32 + int64_t{i / 32} * 1024, kLine);
                tile_bf16<1, 4, 6>();
            }
            tile_store<0>(scores + p - begin, kSpan * 4);
            tile_store<1>(scores + p - begin + 16, kSpan * 4);
        }
        float span_peaks[16], span_masses[16];
        bool taken[16];
        for (int r = 0; r < t.num_rows; ++r) {
            const int position = t.first_position + r;
            const int from = lowest(position) > begin ? lowest(position) : begin;
            const int to = position + 1 < end ? position + 1 : end;
            taken[r] = from < to;
            if (taken[r])
                soften(scores + r * kSpan, true, halves + r * kSpan, begin, end, from, to, span_peaks + r, span_masses + r);
            else
                std::memset(halves + r * kSpan, 0, static_cast<size_t>(end - begin) * 2);
        }
        for (int i = 0; i < dim; i += 32) {   // weights x values, two tiles of 16 dimensions
            tile_zero<2>(), tile_zero<3>();
            for (int p = begin; p < end; p += kKeyTile) {
                const int offset = p % cache.block_size;
                const uint8_t* values = cache.values(t.layer, t.table[p / cache.block_size], t.kv_head) + int64_t{offset} * dim * 2 + int64_t{i / 16} * 1024;
                tile_load<4>(halves + p - begin, kSpan * 2);
                tile_load<5>(values, kLine);
                tile_bf16<2, 4, 5>();
                tile_load<6>(values + 1024, kLine);
                tile_bf16<3, 4, 6>();
            }
            tile_store<2>(sums + i, dim * 4);
            tile_store<3>(sums + i + 16, dim * 4);
        }
        for (int r = 0; r < t.num_rows; ++r) {
            if (!taken[r]) continue;
            if (begun[r]) {
                merge_span(totals + r * dim, peaks + r, masses + r, sums + r * dim, span_peaks[r], span_masses[r], dim);
            } else {
                begun[r] = true, peaks[r] = span_peaks[r], masses[r] = span_masses[r];
                for (int i = 0; i < dim; i += 16) store(totals + r * dim + i, load(sums + r * dim + i));
            }
        }
    }
    for (int r = 0; r < t.num_rows; ++r) divide(totals + r * dim, masses[r], t.head_dim, t.out + r * t.out_stride);
}

}  // namespace TUITION_ISA
}  // namespace tuition
#endif

// Products on the matrix unit (AMX). Rows of activations are padded to 16: what is computed for the padding
// is ignored.
#pragma once

#include "finish.hpp"
#include "product_integer.hpp"
#include "tiles.hpp"

#if defined(TUITION_AMX)
namespace tuition {
namespace TUITION_ISA {

constexpr int kTileBytes = 1024;
constexpr int kSquareAhead = 2 * kTileBytes;
constexpr int64_t kLeftBytes =
    1 << 20;  // activations that pass at a time: what half of the second cache holds

// Finish kBlocks neighbouring blocks for `rows` rows whose results lie in tiles [block][16][16].
template <int kBlocks>
inline void finish_tiles(const Product& p, int row, int rows, int64_t block, const float* tiles) {
    for (int r = 0; r < rows; ++r) {
        if (is_gate(p.ending)) {
            for (int b = 0; b + 1 < kBlocks; b += 2)
                finish_gate(p, row + r, block + b, load(tiles + b * 256 + r * 16),
                            load(tiles + (b + 1) * 256 + r * 16));
        } else {
            for (int b = 0; b < kBlocks; ++b) finish(p, row + r, block + b, load(tiles + b * 256 + r * 16));
        }
    }
}

// ---- bf16 ----

inline void prefetch_tile(const uint8_t* at) {
    for (int line = 0; line < 16; ++line) prefetch(at + line * kLine);
}

// Up to 16 rows by kBlocks blocks (1, 2 or 4): few rows, every weight is read once from memory.
template <int kBlocks>
inline void bf16_tiles_narrow(const Product& p, int row, int rows, int64_t block) {
    const int64_t steps = p.left->columns / 32, next = p.weight->block_bytes();
    const uint8_t* a = p.left->line(row, 0);
    const uint8_t* w = p.weight->block(block);
    float* out = reinterpret_cast<float*>(p.scratch);
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    for (int64_t step = 0; step < steps; ++step, a += kTileBytes, w += kTileBytes) {
        for (int b = 0; b < kBlocks; ++b) prefetch_tile(w + b * next + 4 * kTileBytes);
        tile_load<4>(a, kLine);
        tile_load<5>(w, kLine);
        tile_bf16<0, 4, 5>();
        if constexpr (kBlocks > 1) {
            tile_load<6>(w + next, kLine);
            tile_bf16<1, 4, 6>();
        }
        if constexpr (kBlocks > 2) {
            tile_load<7>(w + 2 * next, kLine);
            tile_bf16<2, 4, 7>();
            tile_load<5>(w + 3 * next, kLine);
            tile_bf16<3, 4, 5>();
        }
    }
    tile_store<0>(out, kLine);
    if constexpr (kBlocks > 1) tile_store<1>(out + 256, kLine);
    if constexpr (kBlocks > 2) tile_store<2>(out + 512, kLine), tile_store<3>(out + 768, kLine);
    finish_tiles<kBlocks>(p, row, rows, block, out);
}

// 32 rows by two blocks: each tile loaded is used twice.
inline void bf16_tiles_square(const Product& p, int row, int rows, int64_t block) {
    const int64_t steps = p.left->columns / 32, next = p.weight->block_bytes();
    const uint8_t* a = p.left->line(row, 0);
    const uint8_t* a2 = p.left->line(row + 16, 0);
    const uint8_t* w = p.weight->block(block);
    float* out = reinterpret_cast<float*>(p.scratch);
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    for (int64_t step = 0; step < steps; ++step, a += kTileBytes, a2 += kTileBytes, w += kTileBytes) {
        tile_load<4>(a, kLine);
        prefetch_tile(a + kSquareAhead);
        tile_load<6>(w, kLine);
        prefetch_tile(w + kSquareAhead);
        tile_bf16<0, 4, 6>();
        tile_load<7>(w + next, kLine);
        prefetch_tile(w + next + kSquareAhead);
        tile_bf16<1, 4, 7>();
        tile_load<5>(a2, kLine);
        prefetch_tile(a2 + kSquareAhead);
        tile_bf16<2, 5, 6>();
        tile_bf16<3, 5, 7>();
    }
    tile_store<0>(out, kLine), tile_store<1>(out + 256, kLine);
    tile_store<2>(out + 512, kLine), tile_store<3>(out + 768, kLine);
    finish_tiles<2>(p, row, smaller(rows, 16), block, out);
    if (rows > 16) finish_tiles<2>(p, row + 16, rows - 16, block, out + 512);
}

inline void multiply_bf16_tiles(const Product& p) {
    configure_full();
    if (p.num_rows <= 16) {
        int64_t block = p.first;
        for (; block + 4 <= p.last; block += 4) bf16_tiles_narrow<4>(p, 0, p.num_rows, block);
        for (; block + 2 <= p.last; block += 2) bf16_tiles_narrow<2>(p, 0, p.num_rows, block);
        for (; block < p.last; ++block) bf16_tiles_narrow<1>(p, 0, p.num_rows, block);
        return;
    }
    const int chunk = smaller(p.num_rows, round_up(kLeftBytes / (p.left->columns * 2) + 1, 32));
    for (int start = 0; start < p.num_rows; start += chunk) {
        const int stop = smaller(p.num_rows, start + chunk);
        for (int64_t block = p.first; block < p.last; block += 2) {
            for (int row = start; row < stop; row += 32) {
                const int rows = smaller(32, stop - row);
                if (block + 2 > p.last) {
                    bf16_tiles_narrow<1>(p, row, smaller(rows, 16), block);
                    if (rows > 16) bf16_tiles_narrow<1>(p, row + 16, rows - 16, block);
                } else if (rows <= 16) {
                    bf16_tiles_narrow<2>(p, row, rows, block);
                } else {
                    bf16_tiles_square(p, row, rows, block);
                }
            }
        }
    }
}

// ---- int8 and int4 ----

// One block of weights as the tiles want them: int8 values in lines, scales as floats.
struct Panel {
    const uint8_t* lines;
    int64_t record_stride;  // bytes between records of 16 lines
    float* scales;          // [groups][16]
    float* minima;          // [groups][16], int4min only
};

template <Format kFormat>
inline Panel make_panel(const Product& p, int64_t block, uint8_t* scratch) {
    const int64_t records = p.left->columns / kRecordColumns;
    const uint8_t* record = p.weight->block(block);
    Panel panel{record, record_bytes(kFormat), reinterpret_cast<float*>(scratch + records * kTileBytes),
                nullptr};
    panel.minima = panel.scales + records * 32;
    if constexpr (kFormat != Format::int8) panel.lines = scratch, panel.record_stride = kTileBytes;
    for (int64_t r = 0; r < records; ++r, record += record_bytes(kFormat)) {
        for (int ahead = 0; ahead < record_bytes(kFormat); ahead += kLine)
            prefetch(record + p.weight->block_bytes() + ahead);
        for (int g = 0; g < 2; ++g) {
            const GroupView view = view_group<kFormat>(record, g);
            store(panel.scales + (2 * r + g) * 16, load_float16(view.scale));
            if constexpr (kFormat == Format::int4min)
                store(panel.minima + (2 * r + g) * 16, load_float16(view.minimum));
            if constexpr (kFormat != Format::int8) {
                const __m512i nibble = _mm512_set1_epi8(15),
                              offset = _mm512_set1_epi8(kFormat == Format::int4 ? 8 : 0);
                uint8_t* lines = scratch + r * kTileBytes + g * 8 * kLine;
                for (int q = 0; q < 4; ++q) {
                    const __m512i both = _mm512_load_si512(view.lines + q * kLine);
                    const __m512i first = _mm512_sub_epi8(_mm512_and_si512(both, nibble), offset);
                    const __m512i second =
                        _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), nibble), offset);
                    _mm512_store_si512(lines + q * kLine, first);
                    _mm512_store_si512(lines + (q + 4) * kLine, second);
                }
            }
        }
    }
    return panel;
}

// Integer sums of both groups of one record for 16 rows: [group][16][16] int32.
inline void record_tiles(const uint8_t* left, const uint8_t* lines, int32_t* out) {
    tile_zero<0>(), tile_zero<1>();
    tile_load<6>(lines, kLine);
    tile_load<4>(left, kLine);
    tile_int8<0, 4, 6>();
    tile_load<7>(lines + 8 * kLine, kLine);
    tile_load<5>(left + kGroup, kLine);
    tile_int8<1, 5, 7>();
    tile_store<0>(out, kLine), tile_store<1>(out + 256, kLine);
}

// total += float(sum) * scale, for kRows rows from registers; the same arithmetic as integer_part.
template <Format kFormat, int kRows>
inline void add_groups(const Product& p, int row, int64_t record, const Panel& panel, const int32_t* sums,
                       F16* total) {
    const int64_t groups = p.left->groups();
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
        const int64_t group = 2 * record + g;
        const F16 scale = load(panel.scales + group * 16);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const F16 own = fill(p.left->scales[(row + r) * groups + group]);
            total[r] = fma(to_float(load(sums + g * 256 + r * 16)), scale * own, total[r]);
            if constexpr (kFormat == Format::int4min) {
                const F16 minimum = load(panel.minima + group * 16);
                total[r] = fma(to_float(fill_int(p.left->sums[(row + r) * groups + group])), minimum * own,
                               total[r]);
            }
        }
    }
}

// kRows rows (of a tile of 16) by one block; results [kRows][16] floats.
template <Format kFormat, int kRows>
inline void integer_tile(const Product& p, int row, const Panel& panel, int32_t* sums, float* out) {
    const int64_t records = p.left->columns / kRecordColumns;
    F16 total[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) total[r] = fill(0);
    const uint8_t* left = reinterpret_cast<const uint8_t*>(p.left->integers(row, 0));
    record_tiles(left, panel.lines, sums);
    for (int64_t record = 1; record < records;
         ++record) {  // sums of one record while the tiles work on the next
        int32_t* next = sums + record % 2 * 512;
        record_tiles(left + record * kTileBytes, panel.lines + record * panel.record_stride, next);
        add_groups<kFormat, kRows>(p, row, record - 1, panel, sums + (record - 1) % 2 * 512, total);
    }
    add_groups<kFormat, kRows>(p, row, records - 1, panel, sums + (records - 1) % 2 * 512, total);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) store(out + r * 16, total[r]);
}

template <Format kFormat>
inline void integer_tile_of(const Product& p, int row, int rows, const Panel& panel, int32_t* sums,
                            float* out) {
    if (rows > 8) return integer_tile<kFormat, 16>(p, row, panel, sums, out);
    if (rows > 4) return integer_tile<kFormat, 8>(p, row, panel, sums, out);
    integer_tile<kFormat, 4>(p, row, panel, sums, out);
}

template <Format kFormat>
inline void multiply_integer_tiles_as(const Product& p) {
    const int64_t panel_bytes = p.left->columns * 16 + p.left->columns / kGroup * 128;
    int32_t* sums = reinterpret_cast<int32_t*>(p.scratch);    // two records: 4 KiB
    float* out = reinterpret_cast<float*>(p.scratch + 8192);  // two blocks: 2 KiB
    uint8_t* panels = p.scratch + 16384;
    const bool gate = is_gate(p.ending);
    const int chunk = smaller(p.num_rows, round_up(kLeftBytes / p.left->columns + 1, 16));
    for (int start = 0; start < p.num_rows; start += chunk) {
        const int stop = smaller(p.num_rows, start + chunk);
        for (int64_t block = p.first; block < p.last; block += gate ? 2 : 1) {
            const Panel first = make_panel<kFormat>(p, block, panels);
            const Panel second = gate ? make_panel<kFormat>(p, block + 1, panels + panel_bytes) : first;
            for (int row = start; row < stop; row += 16) {
                const int rows = smaller(16, stop - row);
                integer_tile_of<kFormat>(p, row, rows, first, sums, out);
                if (gate) {
                    integer_tile_of<kFormat>(p, row, rows, second, sums, out + 256);
                    finish_tiles<2>(p, row, rows, block, out);
                } else {
                    finish_tiles<1>(p, row, rows, block, out);
                }
            }
        }
    }
}

inline void multiply_integer_tiles(const Product& p) {
    configure_groups();
    if (p.weight->format == Format::int8) return multiply_integer_tiles_as<Format::int8>(p);
    if (p.weight->format == Format::int4) return multiply_integer_tiles_as<Format::int4>(p);
    multiply_integer_tiles_as<Format::int4min>(p);
}

}  // namespace TUITION_ISA
}  // namespace tuition
#endif

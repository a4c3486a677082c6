// How weights lie in memory, once for every kernel.
//
// A weight matrix (rows = outputs, columns = inputs) is cut into blocks of 16 rows, so that the 16 lanes of a
// vector, or the 16 columns of a matrix tile, are 16 neighbouring outputs. A block is cut into records of 64
// columns. Rows are padded to 16 and columns to 64, with zeros. Blocks follow each other, and records within
// a block, so a product reads its weights as one stream from the first byte to the last.
//
//   matrix                      block of 16 rows                     one record: 64 columns of 16 rows
//   +-----------+               +--------+--------+---+--------+
//   |  block 0  |               | record | record |...| record |     float32  [64 columns][16 rows] float
//   +-----------+   each one    |   0    |   1    |   |  last  |     bf16     [32 pairs of columns][16
//   rows][2] bf16 |  block 1  |  ---------->  +--------+--------+---+--------+     int8     [16 quads of
//   columns][16 rows][4] int8
//   +-----------+                columns  columns                             [2 groups][16 rows] float16
//   scale |    ...    |                0..63    64..127                    int4     [8 lines][16 rows][4] two
//   nibbles a byte
//   +-----------+                                                             [2 groups][16 rows] float16
//   scale
//                                                                    int4min  as int4, and then
//                                                                             [2 groups][16 rows] float16
//                                                                             minimum
//
// A line is 64 bytes: what one load, or one row of a tile, takes. Every record is a whole number of lines.
//
//   one int8 line (quad q: columns 4q..4q+3)         | row 0: c0 c1 c2 c3 | row 1: c0 c1 c2 c3 | ... | row 15
//   | one bf16 line (pair p: columns 2p, 2p+1)         | row 0: c0 c1       | row 1: c0 c1       | ... | row
//   15 |
//
// This is at once the order that a dot-product instruction wants (broadcast 4 int8, or 2 bf16, of the
// activation and multiply by the line) and the order of the right operand of a matrix tile (16 lines = one
// tile: 64 int8 columns or 32 bf16 columns). int4 line i of a group of 32 columns holds quad i in its low and
// quad i + 4 in its high nibbles.
//
// Groups of 32 columns share a scale, per row. A weight is
//   int8     scale * q             q in -127..127       8.5 bits   the format of GGUF Q8_0
//   int4     scale * (q - 8)       q in 0..15           4.5 bits   the format of GGUF Q4_0
//   int4min  scale * q + minimum   q in 0..15           5.0 bits   the format of GGUF Q4_1
#pragma once

#include <cstddef>
#include <cstdint>

namespace tuition {

enum class Format : int { float32 = 0, bf16 = 1, int8 = 2, int4 = 3, int4min = 4 };

constexpr int kBlockRows = 16;      // outputs in a block
constexpr int kRecordColumns = 64;  // inputs in a record
constexpr int kGroup = 32;          // inputs that share a scale
constexpr int kLine = 64;           // bytes
constexpr int kLayoutVersion = 1;   // part of the key of every packed file

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

constexpr bool is_integer(Format format) {
    return format == Format::int8 || format == Format::int4 || format == Format::int4min;
}

constexpr int64_t record_bytes(Format format) {
    switch (format) {
        case Format::float32:
            return kRecordColumns * kBlockRows * 4;
        case Format::bf16:
            return kRecordColumns * kBlockRows * 2;
        case Format::int8:
            return kRecordColumns * kBlockRows + kLine;
        case Format::int4:
            return kRecordColumns * kBlockRows / 2 + kLine;
        default:
            return kRecordColumns * kBlockRows / 2 + 2 * kLine;
    }
}

// One packed weight matrix; a view, the bytes belong to somebody else.
struct Matrix {
    Format format = Format::float32;
    int64_t rows = 0;  // as in the model, without padding
    int64_t columns = 0;
    const uint8_t* data = nullptr;
    const float* bias = nullptr;  // (rows padded to 16) or null

    int64_t num_blocks() const { return round_up(rows, kBlockRows) / kBlockRows; }
    int64_t num_records() const { return round_up(columns, kRecordColumns) / kRecordColumns; }
    int64_t block_bytes() const { return num_records() * record_bytes(format); }
    const uint8_t* block(int64_t index) const { return data + index * block_bytes(); }
};

int64_t matrix_bytes(Format format, int64_t rows, int64_t columns);

// Where rows of a source go: source rows 16i..16i+15 become block `first + i * step`.
// Interleaving (step 2) puts the gate and the up projection side by side.
struct Placement {
    int64_t first = 0;
    int64_t step = 1;
};

// `values`: (rows, columns) row-major float32. `out`: the first byte of the whole matrix.
void pack_float(Format format, const float* values, int64_t rows, int64_t columns, Placement place,
                uint8_t* out);

// `q`: (rows, columns) row-major int8 (for int4: 0..15). `scales`, `minima`: (rows, groups) float16 bits;
// `minima` only for int4min.
void pack_integer(Format format, const int8_t* q, const uint16_t* scales, const uint16_t* minima,
                  int64_t rows, int64_t columns, Placement place, uint8_t* out);

// One row as float32 (columns values): the embedding of a token, and the way back for tests.
void unpack_row(const Matrix& matrix, int64_t row, float* out);

uint16_t to_bf16(float value);  // round to nearest, ties to even
float from_bf16(uint16_t bits);
float from_float16(uint16_t bits);

}  // namespace tuition

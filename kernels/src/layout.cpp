#include "layout.hpp"

#include <cstring>

namespace tuition {

uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return static_cast<uint16_t>((bits >> 16) | 0x40u);  // stays not-a-number
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float from_bf16(uint16_t half) {
    uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

float from_float16(uint16_t half) {
    uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u, mantissa = half & 1023u, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent != 0) {
        bits = sign | ((exponent + 112u) << 23) | (mantissa << 13);
    } else {  // zero or subnormal: mantissa * 2^-24, exact in float32
        float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

int64_t matrix_bytes(Format format, int64_t rows, int64_t columns) {
    Matrix matrix{format, rows, columns, nullptr, nullptr};
    return matrix.num_blocks() * matrix.block_bytes();
}

namespace {

// Byte of column c, row n inside a record of int8.
inline int64_t int8_at(int64_t column, int64_t row) { return (column / 4) * kLine + row * 4 + column % 4; }

struct Nibble {
    int64_t byte;
    int shift;
};

// Where column c, row n of a record of int4 lies.
inline Nibble int4_at(int64_t column, int64_t row) {
    int64_t group = column / kGroup, quad = (column % kGroup) / 4;
    return {(group * 4 + quad % 4) * kLine + row * 4 + column % 4, quad >= 4 ? 4 : 0};
}

void write_value(Format format, uint8_t* record, int64_t column, int64_t row, float value) {
    if (format == Format::float32) {
        std::memcpy(record + (column * kBlockRows + row) * 4, &value, 4);
    } else {
        uint16_t half = to_bf16(value);
        std::memcpy(record + (column / 2) * kLine + row * 4 + (column % 2) * 2, &half, 2);
    }
}

int64_t weight_bytes(Format format) {  // of one record, before its scales
    return format == Format::int8 ? kRecordColumns * kBlockRows : kRecordColumns * kBlockRows / 2;
}

uint16_t load_half(const uint8_t* at) {
    uint16_t half;
    std::memcpy(&half, at, 2);
    return half;
}

}  // namespace

void pack_float(Format format, const float* values, int64_t rows, int64_t columns, Placement place,
                uint8_t* out) {
    Matrix matrix{format, rows, columns, nullptr, nullptr};
    for (int64_t first = 0; first < rows; first += kBlockRows) {
        uint8_t* block = out + (place.first + first / kBlockRows * place.step) * matrix.block_bytes();
        std::memset(block, 0, static_cast<size_t>(matrix.block_bytes()));
        for (int64_t row = 0; row < kBlockRows && first + row < rows; ++row) {
            const float* source = values + (first + row) * columns;
            for (int64_t column = 0; column < columns; ++column)
                write_value(format, block + column / kRecordColumns * record_bytes(format),
                            column % kRecordColumns, row, source[column]);
        }
    }
}

void pack_integer(Format format, const int8_t* q, const uint16_t* scales, const uint16_t* minima,
                  int64_t rows, int64_t columns, Placement place, uint8_t* out) {
    Matrix matrix{format, rows, columns, nullptr, nullptr};
    const int64_t groups = round_up(columns, kGroup) / kGroup;
    for (int64_t first = 0; first < rows; first += kBlockRows) {
        uint8_t* block = out + (place.first + first / kBlockRows * place.step) * matrix.block_bytes();
        std::memset(block, 0, static_cast<size_t>(matrix.block_bytes()));
        for (int64_t row = 0; row < kBlockRows && first + row < rows; ++row) {
            const int8_t* source = q + (first + row) * columns;
            for (int64_t column = 0; column < columns; ++column) {
                uint8_t* record = block + column / kRecordColumns * record_bytes(format);
                uint8_t value = static_cast<uint8_t>(source[column]);
                if (format == Format::int8) {
                    record[int8_at(column % kRecordColumns, row)] = value;
                } else {
                    Nibble at = int4_at(column % kRecordColumns, row);
                    record[at.byte] = static_cast<uint8_t>(record[at.byte] | ((value & 15u) << at.shift));
                }
            }
            for (int64_t group = 0; group < groups; ++group) {
                uint8_t* tail = block + group / 2 * record_bytes(format) + weight_bytes(format);
                int64_t at = (group % 2 * kBlockRows + row) * 2;
                std::memcpy(tail + at, scales + (first + row) * groups + group, 2);
                if (format == Format::int4min)
                    std::memcpy(tail + kLine + at, minima + (first + row) * groups + group, 2);
            }
        }
    }
}

void unpack_row(const Matrix& matrix, int64_t row, float* out) {
    const uint8_t* block = matrix.block(row / kBlockRows);
    const int64_t lane = row % kBlockRows;
    for (int64_t column = 0; column < matrix.columns; ++column) {
        const uint8_t* record = block + column / kRecordColumns * record_bytes(matrix.format);
        const int64_t c = column % kRecordColumns;
        if (matrix.format == Format::float32) {
            std::memcpy(out + column, record + (c * kBlockRows + lane) * 4, 4);
            continue;
        }
        if (matrix.format == Format::bf16) {
            out[column] = from_bf16(load_half(record + (c / 2) * kLine + lane * 4 + (c % 2) * 2));
            continue;
        }
        const uint8_t* tail = record + weight_bytes(matrix.format);
        const int64_t at = (c / kGroup * kBlockRows + lane) * 2;
        const float scale = from_float16(load_half(tail + at));
        if (matrix.format == Format::int8) {
            out[column] = scale * static_cast<float>(static_cast<int8_t>(record[int8_at(c, lane)]));
            continue;
        }
        Nibble nibble = int4_at(c, lane);
        const int value = (record[nibble.byte] >> nibble.shift) & 15;
        if (matrix.format == Format::int4)
            out[column] = scale * static_cast<float>(value - 8);
        else
            out[column] = scale * static_cast<float>(value) + from_float16(load_half(tail + kLine + at));
    }
}

}  // namespace tuition

// What every instruction set offers: one table of functions, filled by isa/table.hpp in each translation
// unit.
//
// All functions work on one thread's share; model.cpp decides who does what. Every sum runs in an order that
// depends on nothing but the row itself, so a row's result has the same bits alone, in any batch and under
// any chunking.
#pragma once

#include <cstdint>

#include "cache.hpp"
#include "layout.hpp"

namespace tuition {

// Rows of activations, prepared as left operand of a product. Padded with zeros to 64 columns.
//
// float32: `values`. bf16: `tiles`, and the same numbers in `values` where vector units may read them.
// Integer formats: `tiles` of integers q in -127..127, and for each row and group of 32 columns a scale (x is
// about scale * q) and the sum of its q.
//
// A tile is 16 rows in 16 lines of 64 bytes: 32 columns in bf16, 64 columns (two groups) in int8. Tiles of
// the same rows follow each other, so that the matrix unit reads one stream.
struct Rows {
    int64_t columns = 0;       // padded
    float* values = nullptr;   // [row][columns]
    uint8_t* tiles = nullptr;  // [row / 16][tiles of a row][16 rows][64 bytes]
    int32_t* sums = nullptr;   // [row][groups()]
    float* scales = nullptr;   // [row][groups()]

    int64_t groups() const { return columns / kGroup; }
    uint8_t* line(int64_t row, int64_t group) const {  // bf16: 32 columns
        return tiles + ((row / 16 * (columns / 32) + group) * 16 + row % 16) * 64;
    }
    int8_t* integers(int64_t row,
                     int64_t group) const {  // int8: 32 columns; those of the next row are 64 bytes on
        uint8_t* line = tiles + ((row / 16 * (columns / 64) + group / 2) * 16 + row % 16) * 64;
        return reinterpret_cast<int8_t*>(line + group % 2 * kGroup);
    }
    Rows from(int64_t row, Format format) const {  // those behind the first `row`, a multiple of 16
        Rows rest = *this;
        if (rest.values != nullptr) rest.values += row * columns;
        if (rest.tiles != nullptr) rest.tiles += row * columns * (is_integer(format) ? 1 : 2);
        if (rest.sums != nullptr) rest.sums += row * groups(), rest.scales += row * groups();
        return rest;
    }
};

// What a variant adds to one product: for each part of its outputs, up (down x). The weights are float32 or
// bf16 where the product's are, and int8 where those are integers, with a scale per rank of down and per
// block of up; x is what the product takes, and down x is rounded as the products' x is. All lies in the
// order in which it is read.
//
// A line of 64 bytes holds 16 rows of a matrix by 1 column of float32, 2 of bf16, or 4 of int8, as in
// layout.hpp. The parts share x, so their down are one matrix, of their ranks one behind the other: panels of
// up to 3 blocks of 16, whose lines alternate.
struct LowRank {
    static constexpr int kPanelBlocks = 3;
    struct Part {
        const uint8_t* up = nullptr;    // blocks of 16 outputs
        const float* scales = nullptr;  // int8: of each block
        int64_t step = 0;               // bytes from a block to the next: those of gate and up alternate
        int rank = 0;                   // padded to 4; 0: nothing is added to this part
        int at = 0;                     // its first among the ranks of all parts
    };
    Format format = Format::float32;
    int inputs = 0;                       // padded to 16; int8: to groups
    int ranks = 0;                        // of all parts, padded to 16
    const uint8_t* down = nullptr;        // int8: each panel behind the scales of its ranks
    Part parts[3];                        // of query, key and value; or of gate and up
    int64_t first_blocks[3] = {0, 0, 0};  // of each part, where there are three

    static constexpr int line_columns(Format format) {
        return format == Format::float32 ? 1 : format == Format::bf16 ? 2 : 4;
    }
    static constexpr int64_t block_bytes(Format format, int64_t columns) {
        return columns / line_columns(format) * kLine;
    }
    int64_t down_block_bytes() const {
        return block_bytes(format, inputs) + (format == Format::int8 ? kLine : 0);
    }
    int64_t down_bytes() const { return ranks / kBlockRows * down_block_bytes(); }
    int part_index(int64_t block, bool interleaved) const {
        if (interleaved) return static_cast<int>(block % 2);
        int part = 0;
        while (part < 2 && first_blocks[part + 1] > 0 && block >= first_blocks[part + 1]) ++part;
        return part;
    }
    const Part& part_of(int64_t block, bool interleaved) const {
        return parts[part_index(block, interleaved)];
    }
    // Its place among the blocks of its part.
    int64_t inside_part(int64_t block, bool interleaved) const {
        return interleaved ? block / 2 : block - first_blocks[part_index(block, false)];
    }
    // Where the weights of a block of outputs lie; null where nothing is added to it.
    const uint8_t* up_of(int64_t block, bool interleaved) const {
        const Part& part = part_of(block, interleaved);
        return part.rank > 0 ? part.up + inside_part(block, interleaved) * part.step : nullptr;
    }
};

// down x of rows of one variant, first <= row < last.
struct Shrinking {
    const LowRank* change = nullptr;
    const Rows* left = nullptr;  // prepared for the product
    int first = 0, last = 0;
    float* out = nullptr;  // [row][out_stride], as `expand` wants it; 16 more floats than ranks
    int64_t out_stride = 0;
    const uint8_t* next = nullptr;  // what the thread reads then
};

// up (down x) of neighbouring rows of one variant, for blocks first <= b < last.
struct Expansion {
    const LowRank* change = nullptr;
    const float* ranks = nullptr;  // [row][rank_stride], as `shrink` made them
    int64_t rank_stride = 0;
    int num_rows = 0;
    int64_t first = 0, last = 0;
    bool interleaved = false;  // block 2j is the gate's, 2j + 1 the up projection's
    float* out = nullptr;      // [row][out_stride]
    int64_t out_stride = 0;
    const uint8_t* next = nullptr;  // what the thread reads then
};

// add: after a scale. gelu: store what it makes of the sums. Gates: an activation of block 2j is multiplied
// by block 2j + 1.
enum class Ending { store, add, gelu, gate_silu, gate_gelu };

constexpr bool is_gate(Ending ending) { return ending == Ending::gate_silu || ending == Ending::gate_gelu; }

// out[row, n] = sum over k of left[row, k] weight[n, k] (+ bias), for blocks first <= b < last of 16 outputs.
struct Product {
    const Matrix* weight = nullptr;
    const Rows* left = nullptr;
    int num_rows = 0;
    float* out = nullptr;
    int64_t out_stride = 0;
    Ending ending = Ending::store;
    int64_t first = 0, last = 0;  // with a gate both are even
    uint8_t* scratch = nullptr;   // this thread's, scratch_bytes(columns) bytes
    bool from_memory = false;     // the caches do not hold the model's weights from step to step
    // What is added to rows of variants before the ending; null where the step has none.
    const int32_t* variants = nullptr;  // [row], -1: nothing is added to this row
    const float* added = nullptr;       // [row][added_stride]
    int64_t added_stride = 0;
    float scale = 1.0f;  // of what is added
};

constexpr int64_t product_scratch_bytes(int64_t padded_columns) { return padded_columns * 32 * 4 + 65536; }

// Up to 16 queries of one key-value head against the keys of one span: the heads of one row that share these
// keys, or one head of consecutive rows of a sequence.
struct SpanOfQueries {
    const Cache* cache = nullptr;
    const int32_t* table = nullptr;  // block of each block_size positions
    int layer = 0, kv_head = 0;
    int begin = 0, end = 0;     // positions that any query needs, whole tiles of keys, within one span
    const int* lows = nullptr;  // [num_queries] keys low <= p < high; none where low >= high
    const int* highs = nullptr;
    const float* queries = nullptr;  // [num_queries][query_stride], scaled by 1 / sqrt(head_dim)
    const uint16_t* halves =
        nullptr;  // the same as bf16, with a bf16 cache (TUITION_BF16_DOT: then these alone)
    int64_t query_stride = 0;
    int num_queries = 0;
    float* sums = nullptr;  // [num_queries][sum_stride] not yet divided by mass
    int64_t sum_stride = 0;
    float* peaks = nullptr;    // [num_queries]
    float* masses = nullptr;   // [num_queries] 0 where it has no keys
    float* scratch = nullptr;  // attention_scratch_floats()
};

constexpr int64_t attention_scratch_floats() { return 16 * kSpan * 2; }

constexpr int64_t kDrawSpan = 256;  // values whose weights are added up at once, where a token is drawn

struct Kernels {
    const char* name;
    // Rows that are enough for a thread to take them through all of a product's weights: multiplying decides
    // then, not how fast the weights come.
    int rows_apart;
    void (*enter)();  // set the processor's modes for this thread
    void (*leave)();  // and put them back
    // x / rms(x) * weight over `size` (padded to 16 with zeros behind it)
    void (*norm)(const float* x, const float* weight, int size, float epsilon, float* out);
    // (x - mean) / deviation * weight + bias, likewise
    void (*layer_norm)(const float* x, const float* weight, const float* bias, int size, float epsilon,
                       float* out);
    // `alone`: the product will have this row only, and may take it on vector units.
    void (*prepare)(const float* x, int columns, Format format, Rows& rows, int row, bool alone);
    void (*multiply)(const Product& product);
    void (*shrink)(const Shrinking& shrinking);
    void (*expand)(const Expansion& expansion);
    void (*rotate)(float* head, const float* cos, const float* sin, int rotary_dim);
    void (*store_key)(const Cache& cache, int layer, int block, int head, int offset, const float* key,
                      int head_dim);
    void (*store_value)(const Cache& cache, int layer, int block, int head, int offset, const float* value,
                        int head_dim);
    void (*scale_query)(const float* query, float scale, int head_dim, int padded, float* out,
                        uint16_t* halves);
    void (*attend_span)(const SpanOfQueries& item);
    // Merge span `sums` with (peak, mass) into `total` with (total_peak, total_mass).
    void (*merge_span)(float* total, float* total_peak, float* total_mass, const float* sums, float peak,
                       float mass, int size);
    void (*divide)(const float* sums, float mass, int size, float* out);
    // The largest value, not a number if one is none or +infinity; tops[span of kDrawSpan][16]: by span and
    // place % 16.
    float (*survey)(const float* row, int64_t size, float* tops);
    // e^((value - top) * scale), and their sums by span; to whole vectors. Zero below e^-87. In place where
    // they are the same.
    void (*weigh)(const float* values, int64_t size, float top, float scale, float* weights, float* sums);
    void (*add_up)(const float* weights, int64_t size, float* sums);
    // Values of `border` and more, above -infinity, and their sources (null: their places), in order; returns
    // their number. In place where they are the same; to whole vectors.
    int64_t (*gather)(const float* values, const int32_t* sources, int64_t size, float border, float* kept,
                      int32_t* ids);
    // Roofline probes: read all bytes once; do `rounds` rounds of matrix work and return operations done.
    uint64_t (*read_all)(const uint8_t* data, int64_t bytes);
    double (*matrix_work)(int kind, int64_t rounds);  // kind: Format float32, bf16 or int8
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();  // null where this build has none
const Kernels* avx512_kernels();
const Kernels* avx512bf16_kernels();
const Kernels* amx_kernels();

}  // namespace tuition

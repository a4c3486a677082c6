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
// bf16 where the product's are, and int8 with a scale per row where those are integers: many variants are
// read from memory at every step, so their bytes are their price. x and all sums are float32.
struct LowRank {
    struct Part {
        const uint8_t* down = nullptr;  // blocks of 16 ranks: [inputs][16]; bf16: in pairs of columns;
                                        // int8: behind the 16 scales
        const uint8_t* up = nullptr;    // blocks of 16 outputs: [rank][16], likewise
        int rank = 0;                   // padded to 4; 0: nothing is added to this part
        int at = 0;                     // where the row's `down x` of this part begins
    };
    Format format = Format::float32;
    int inputs = 0;  // padded to 16
    Part parts[3];   // of query, key and value; or of gate and up, whose blocks alternate
    int64_t first_blocks[3] = {0, 0, 0};  // of each part, where there are three

    static constexpr int64_t block_bytes(Format format, int64_t columns) {
        return columns * 16 *
                   (format == Format::float32 ? 4
                    : format == Format::bf16  ? 2
                                              : 1) +
               (format == Format::int8 ? kLine : 0);
    }
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
    // down x of rows of one variant, x [row][stride] and out [row][out_stride]; and what comes of it.
    void (*shrink)(const LowRank& change, const float* x, int64_t stride, int num_rows, float* out,
                   int64_t out_stride);
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

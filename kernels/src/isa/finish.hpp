// The end of a product: bias, what the row's variant adds, then store, add to the residual stream, or gate.
#pragma once

#include "../kernels.hpp"
#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

inline F16 with_bias(const Product& p, int row, int64_t block, F16 value) {
    if (p.weight->bias != nullptr) value = value + load(p.weight->bias + block * kBlockRows);
    if (p.variants != nullptr && p.variants[row] >= 0)
        value = value + load(p.added + row * p.added_stride + block * kBlockRows);
    return value;
}

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) is x / (1 + e^-steep(x)).
inline F16 steep(F16 x) { return x * (fill(1.5957691216057308f) + fill(0.07135481627260025f) * x * x); }

// 1 / (1 + e^-x). Beyond e^87 `reciprocal` has no guess to begin with.
inline F16 sigmoid(F16 x) { return reciprocal(fill(1.0f) + exp(fill(0) - max(x, fill(-87.0f)))); }

inline void finish(const Product& p, int row, int64_t block, F16 value) {
    float* at = p.out + row * p.out_stride + block * kBlockRows;
    value = with_bias(p, row, block, value);
    if (p.ending == Ending::add) return store(at, load(at) + value * fill(p.scale));
    if (p.ending == Ending::gelu) return store(at, value * sigmoid(steep(value)));  // 0 behind the last row
    const int64_t rest = p.weight->rows - block * kBlockRows;  // logits have no padding behind the last row
    if (rest >= kBlockRows) return store(at, value);
    store_first(at, value, static_cast<int>(rest));
}

// activation(gate) * up, where `block` (even) is the gate's and the next the up projection's.
inline void finish_gate(const Product& p, int row, int64_t block, F16 gate, F16 up) {
    gate = with_bias(p, row, block, gate);
    up = with_bias(p, row, block + 1, up);
    const F16 open = sigmoid(p.ending == Ending::gate_gelu ? steep(gate) : gate);
    store(p.out + row * p.out_stride + block / 2 * kBlockRows, gate * up * open);
}

// kBlocks neighbouring blocks of kRows rows.
template <int kRows, int kBlocks>
inline void finish_all(const Product& p, int row, int64_t block, const F16 (&total)[kRows][kBlocks]) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        if (is_gate(p.ending)) {
#pragma GCC unroll 4
            for (int b = 0; b + 1 < kBlocks; b += 2)
                finish_gate(p, row + r, block + b, total[r][b], total[r][b + 1]);
        } else {
#pragma GCC unroll 4
            for (int b = 0; b < kBlocks; ++b) finish(p, row + r, block + b, total[r][b]);
        }
    }
}

}  // namespace TUITION_ISA
}  // namespace tuition

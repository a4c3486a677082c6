// Norms of one row, and rotation of one head.
#pragma once

#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

inline void norm(const float* x, const float* weight, int size, float epsilon, float* out) {
    F16 squares = fill(0);
    for (int i = 0; i < size; i += 16) squares = fma(load(x + i), load(x + i), squares);
    const F16 mean = fill(sum(squares) / static_cast<float>(size) + epsilon);
    const F16 factor = fill(1.0f) / sqrt(mean);
    for (int i = 0; i < size; i += 16) store(out + i, load(x + i) * factor * load(weight + i));
}

inline void layer_norm(const float* x, const float* weight, const float* bias, int size, float epsilon,
                       float* out) {
    F16 total = fill(0), squares = fill(0);
    for (int i = 0; i < size; i += 16) total = total + load(x + i);
    const float mean = sum(total) / static_cast<float>(size);
    const int whole = size / 16 * 16;
    for (int i = 0; i < whole; i += 16) {
        const F16 distance = load(x + i) - fill(mean);
        squares = fma(distance, distance, squares);
    }
    float square = sum(squares);
    for (int i = whole; i < size; ++i) square += (x[i] - mean) * (x[i] - mean);
    const F16 factor = fill(1.0f) / sqrt(fill(square / static_cast<float>(size) + epsilon));
    for (int i = 0; i < size; i += 16)  // weight and bias are zero behind the end
        store(out + i, (load(x + i) - fill(mean)) * factor * load(weight + i) + load(bias + i));
}

// Halves as in Llama checkpoints: (left, right) -> (left cos - right sin, right cos + left sin).
inline void rotate(float* head, const float* cos, const float* sin, int rotary_dim) {
    const int half = rotary_dim / 2;
    int i = 0;
    for (; i + 16 <= half; i += 16) {
        const F16 left = load(head + i), right = load(head + half + i), c = load(cos + i), s = load(sin + i);
        store(head + i, left * c - right * s);
        store(head + half + i, right * c + left * s);
    }
    for (; i < half; ++i) {
        const float left = head[i], right = head[half + i];
        const float a = left * cos[i], b = right * sin[i], c = right * cos[i], d = left * sin[i];
        head[i] = a - b;
        head[half + i] = c + d;
    }
}

inline void scale_query(const float* query, float scale, int head_dim, int padded, float* out,
                        uint16_t* halves) {
    const F16 factor = fill(scale);
    for (int i = 0; i < padded; i += 16) {
        const F16 value = i < head_dim ? load(query + i) * factor : fill(0);
        if (halves == nullptr) {
            store(out + i, value);
            continue;
        }
        store_bf16(halves + i, value);
#if !defined(TUITION_BF16_DOT)  // which reads the halves alone
        store(out + i, rounded_to_bf16(value));
#endif
    }
}

}  // namespace TUITION_ISA
}  // namespace tuition

// What the driver's parts share: counted failures, random small models, and the textbook reference.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "layout.hpp"
#include "memory.hpp"
#include "model.hpp"
#include "plan.hpp"

namespace driver {

using namespace tuition;

inline int failures = 0;

inline void expect(bool holds, const std::string& what) {
    if (holds) return;
    ++failures;
    std::printf("FAILED: %s\n", what.c_str());
}

struct Tiny {  // a random model: packed, and as plain matrices of what the packing stands for
    Config config;
    Buffer packed;
    Plan plan;
    std::vector<float> cos, sin;
    std::map<std::string, std::vector<float>> added;  // to these parts: the variant that `reference` computes

    explicit Tiny(const Config& c, uint32_t seed) : config(c), packed(Plan(c).bytes), plan(c) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (const Part& part : plan.parts) {
            if (part.columns == 0) {
                float* out = reinterpret_cast<float*>(packed.data() + part.offset);
                const bool norm = part.name.find("norm") != std::string::npos;
                for (int64_t i = 0; i < part.rows; ++i)
                    out[i] = is_padding(part, i) ? 0.0f : (norm ? 1.0f : 0.0f) + 0.3f * normal(random);
                continue;
            }
            fill(part, random);
        }
        for (int64_t p = 0; p < c.context_length; ++p)
            for (int64_t i = 0; i < c.head_dim / 2; ++i) {
                const double angle =
                    static_cast<double>(p) *
                    std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
                cos.push_back(static_cast<float>(std::cos(angle)));
                sin.push_back(static_cast<float>(std::sin(angle)));
            }
    }

    // Rows that only fill up the last block of gate and up; a packer leaves them zero.
    bool is_padding(const Part& part, int64_t row) const {
        return part.name.find("gate_up") != std::string::npos && row / 32 * 16 + row % 16 >= config.mlp_size;
    }

    void fill(const Part& part, std::mt19937& random) {
        const float spread = 1.0f / std::sqrt(static_cast<float>(part.columns));
        const size_t size = static_cast<size_t>(part.rows * part.columns);
        std::normal_distribution<float> normal(0.0f, spread);
        if (!is_integer(part.format)) {
            std::vector<float> values(size);
            for (size_t i = 0; i < size; ++i)
                values[i] = is_padding(part, static_cast<int64_t>(i) / part.columns) ? 0.0f : normal(random);
            pack_float(part.format, values.data(), part.rows, part.columns, {}, packed.data() + part.offset);
            return;
        }
        const int64_t groups = round_up(part.columns, kGroup) / kGroup;
        std::vector<int8_t> q(size);
        std::vector<uint16_t> scales(static_cast<size_t>(part.rows * groups)), minima(scales.size());
        const int low = part.format == Format::int8 ? -127 : 0, high = part.format == Format::int8 ? 127 : 15;
        std::uniform_int_distribution<int> draw(low, high);
        for (int8_t& value : q) value = static_cast<int8_t>(draw(random));
        // float16 bits with exponents that make weights of about `spread`: 2^-7 for 8 bits, 2^-4 and -2^-1
        // for 4 bits
        for (uint16_t& scale : scales)
            scale =
                static_cast<uint16_t>((part.format == Format::int8 ? 0x0c00 : 0x1c00) + (random() & 0x3ff));
        for (uint16_t& minimum : minima) minimum = static_cast<uint16_t>(0xa800 + (random() & 0x3ff));
        for (size_t i = 0; i < scales.size(); ++i)
            if (is_padding(part, static_cast<int64_t>(i) / groups)) scales[i] = minima[i] = 0;
        pack_integer(part.format, q.data(), scales.data(), minima.data(), part.rows, part.columns, {},
                     packed.data() + part.offset);
    }

    // Row-major, dequantised, with what is added.
    std::vector<float> matrix(const std::string& name) const {
        const Part& part = plan.at(name);
        Matrix view{part.format, part.rows, part.columns, packed.data() + part.offset, nullptr};
        std::vector<float> out(static_cast<size_t>(part.rows * part.columns));
        for (int64_t row = 0; row < part.rows; ++row) unpack_row(view, row, out.data() + row * part.columns);
        const auto change = added.find(name);
        for (size_t i = 0; change != added.end() && i < out.size(); ++i) out[i] += change->second[i];
        return out;
    }
    const float* vector(const std::string& name) const {
        return plan.has(name) ? reinterpret_cast<const float*>(packed.data() + plan.at(name).offset)
                              : nullptr;
    }
};

using Row = std::vector<double>;

inline Row product(const std::vector<float>& weight, const float* bias, const Row& x, int64_t rows) {
    const size_t columns = x.size();
    Row out(static_cast<size_t>(rows));
    for (size_t n = 0; n < out.size(); ++n) {
        double total = bias == nullptr ? 0.0 : static_cast<double>(bias[n]);
        for (size_t k = 0; k < columns; ++k) total += static_cast<double>(weight[n * columns + k]) * x[k];
        out[n] = total;
    }
    return out;
}

inline Row normed(const Row& x, const float* weight, double epsilon) {
    double squares = 0;
    for (double value : x) squares += value * value;
    Row out(x);
    for (size_t i = 0; i < x.size(); ++i)
        out[i] *=
            static_cast<double>(weight[i]) / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
    return out;
}

// Logits of every token of one sequence, computed as in a textbook.
inline std::vector<Row> reference(const Tiny& tiny, const std::vector<int32_t>& tokens) {
    const Config& c = tiny.config;
    const std::vector<float> head = tiny.matrix("head"),
                             embedding = c.tied_head ? head : tiny.matrix("embedding");
    const size_t hidden = static_cast<size_t>(c.hidden_size), dim = static_cast<size_t>(c.head_dim),
                 inner = static_cast<size_t>(c.mlp_size);
    const size_t heads = static_cast<size_t>(c.num_heads), kv_heads = static_cast<size_t>(c.num_kv_heads);
    std::vector<Row> x;
    for (int32_t token : tokens) {
        const float* row = embedding.data() + static_cast<size_t>(token) * hidden;
        x.emplace_back(row, row + hidden);
    }
    for (int64_t i = 0; i < c.num_layers; ++i) {
        const std::string at = "layers." + std::to_string(i) + ".";
        const std::vector<float> qkv = tiny.matrix(at + "qkv"), output = tiny.matrix(at + "output"),
                                 gate_up = tiny.matrix(at + "gate_up"), down = tiny.matrix(at + "down");
        std::vector<Row> projected;
        for (size_t p = 0; p < x.size(); ++p) {
            Row row =
                product(qkv, tiny.vector(at + "qkv_bias"),
                        normed(x[p], tiny.vector(at + "attention_norm"), static_cast<double>(c.norm_eps)),
                        c.qkv_size());
            for (size_t head_index = 0; head_index < heads + kv_heads; ++head_index) {
                Row one(row.begin() + static_cast<long>(head_index * dim),
                        row.begin() + static_cast<long>((head_index + 1) * dim));
                const float* norm = tiny.vector(at + (head_index < heads ? "query_norm" : "key_norm"));
                if (norm != nullptr) one = normed(one, norm, static_cast<double>(c.norm_eps));
                for (size_t j = 0; j < dim / 2; ++j) {
                    const double cosine = static_cast<double>(tiny.cos[p * dim / 2 + j]),
                                 sine = static_cast<double>(tiny.sin[p * dim / 2 + j]);
                    row[head_index * dim + j] = one[j] * cosine - one[j + dim / 2] * sine;
                    row[head_index * dim + j + dim / 2] = one[j + dim / 2] * cosine + one[j] * sine;
                }
            }
            projected.push_back(row);
        }
        const int window = c.windows[static_cast<size_t>(i)];
        for (size_t p = 0; p < x.size(); ++p) {
            Row attended(heads * dim);
            for (size_t h = 0; h < heads; ++h) {
                const size_t kv = h / (heads / kv_heads),
                             first = window > 0 && p + 1 > static_cast<size_t>(window)
                                         ? p + 1 - static_cast<size_t>(window)
                                         : 0;
                Row weights;
                double mass = 0;
                for (size_t other = first; other <= p; ++other) {
                    double score = 0;
                    for (size_t j = 0; j < dim; ++j)
                        score += projected[p][h * dim + j] * projected[other][(heads + kv) * dim + j];
                    weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
                    mass += weights.back();
                }
                for (size_t other = first; other <= p; ++other)
                    for (size_t j = 0; j < dim; ++j)
                        attended[h * dim + j] += weights[other - first] / mass *
                                                 projected[other][(heads + kv_heads + kv) * dim + j];
            }
            const Row update = product(output, tiny.vector(at + "output_bias"), attended, c.hidden_size);
            for (size_t j = 0; j < hidden; ++j) x[p][j] += update[j];
            const Row both =
                product(gate_up, tiny.vector(at + "gate_up_bias"),
                        normed(x[p], tiny.vector(at + "mlp_norm"), static_cast<double>(c.norm_eps)),
                        c.gate_up_size());
            Row middle(inner);
            for (size_t j = 0; j < inner; ++j) {  // blocks of 16 rows: gate, up, gate, up, ...
                const double gate = both[j / 16 * 32 + j % 16], up = both[j / 16 * 32 + 16 + j % 16];
                middle[j] = gate / (1 + std::exp(-gate)) * up;
            }
            const Row last = product(down, tiny.vector(at + "down_bias"), middle, c.hidden_size);
            for (size_t j = 0; j < hidden; ++j) x[p][j] += last[j];
        }
    }
    std::vector<Row> logits;
    for (const Row& row : x)
        logits.push_back(product(
            head, nullptr, normed(row, tiny.vector("norm"), static_cast<double>(c.norm_eps)), c.vocab_size));
    return logits;
}

}  // namespace driver

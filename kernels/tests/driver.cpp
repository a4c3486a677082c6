// The parity driver, in C++ so that the sanitizers can watch all of it: random small models of every feature, on every
// instruction set of this machine, in every format, against a plain reference in double precision; the same bits
// whatever the batch and the chunks; and batches that do not fit are refused.
//
//   driver           all instruction sets          driver --quick   fewer steps (under sanitizers)
//   driver amx ...   these instruction sets alone  driver --threads=1
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpuid.hpp"
#include "draw.hpp"
#include "model.hpp"
#include "probe.hpp"

using namespace tuition;

namespace {

int failures = 0;
std::vector<std::string> isas;
int num_threads = 3;

void expect(bool holds, const std::string& what) {
    if (holds) return;
    ++failures;
    std::printf("FAILED: %s\n", what.c_str());
}

struct Tiny {   // a random model: packed, and as plain matrices of what the packing stands for
    Config config;
    Buffer packed;
    Plan plan;
    std::vector<float> cos, sin;

    explicit Tiny(const Config& c, uint32_t seed) : config(c), packed(Plan(c).bytes), plan(c) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (const Part& part : plan.parts) {
            if (part.columns == 0) {
                float* out = reinterpret_cast<float*>(packed.data() + part.offset);
                const bool norm = part.name.find("norm") != std::string::npos;
                for (int64_t i = 0; i < part.rows; ++i) out[i] = is_padding(part, i) ? 0.0f : (norm ? 1.0f : 0.0f) + 0.3f * normal(random);
                continue;
            }
            fill(part, random);
        }
        for (int64_t p = 0; p < c.context_length; ++p)
            for (int64_t i = 0; i < c.head_dim / 2; ++i) {
                const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
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
            for (size_t i = 0; i < size; ++i) values[i] = is_padding(part, static_cast<int64_t>(i) / part.columns) ? 0.0f : normal(random);
            pack_float(part.format, values.data(), part.rows, part.columns, {}, packed.data() + part.offset);
            return;
        }
        const int64_t groups = round_up(part.columns, kGroup) / kGroup;
        std::vector<int8_t> q(size);
        std::vector<uint16_t> scales(static_cast<size_t>(part.rows * groups)), minima(scales.size());
        const int low = part.format == Format::int8 ? -127 : 0, high = part.format == Format::int8 ? 127 : 15;
        std::uniform_int_distribution<int> draw(low, high);
        for (int8_t& value : q) value = static_cast<int8_t>(draw(random));
        // float16 bits with exponents that make weights of about `spread`: 2^-7 for 8 bits, 2^-4 and -2^-1 for 4 bits
        for (uint16_t& scale : scales) scale = static_cast<uint16_t>((part.format == Format::int8 ? 0x0c00 : 0x1c00) + (random() & 0x3ff));
        for (uint16_t& minimum : minima) minimum = static_cast<uint16_t>(0xa800 + (random() & 0x3ff));
        for (size_t i = 0; i < scales.size(); ++i)
            if (is_padding(part, static_cast<int64_t>(i) / groups)) scales[i] = minima[i] = 0;
        pack_integer(part.format, q.data(), scales.data(), minima.data(), part.rows, part.columns, {}, packed.data() + part.offset);
    }

    std::vector<float> matrix(const std::string& name) const {   // row-major, dequantised
        const Part& part = plan.at(name);
        Matrix view{part.format, part.rows, part.columns, packed.data() + part.offset, nullptr};
        std::vector<float> out(static_cast<size_t>(part.rows * part.columns));
        for (int64_t row = 0; row < part.rows; ++row) unpack_row(view, row, out.data() + row * part.columns);
        return out;
    }
    const float* vector(const std::string& name) const {
        return plan.has(name) ? reinterpret_cast<const float*>(packed.data() + plan.at(name).offset) : nullptr;
    }
};

using Row = std::vector<double>;

Row product(const std::vector<float>& weight, const float* bias, const Row& x, int64_t rows) {
    const size_t columns = x.size();
    Row out(static_cast<size_t>(rows));
    for (size_t n = 0; n < out.size(); ++n) {
        double total = bias == nullptr ? 0.0 : static_cast<double>(bias[n]);
        for (size_t k = 0; k < columns; ++k) total += static_cast<double>(weight[n * columns + k]) * x[k];
        out[n] = total;
    }
    return out;
}

Row normed(const Row& x, const float* weight, double epsilon) {
    double squares = 0;
    for (double value : x) squares += value * value;
    Row out(x);
    for (size_t i = 0; i < x.size(); ++i) out[i] *= static_cast<double>(weight[i]) / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
    return out;
}

// Logits of every token of one sequence, computed as in a textbook.
std::vector<Row> reference(const Tiny& tiny, const std::vector<int32_t>& tokens) {
    const Config& c = tiny.config;
    const std::vector<float> head = tiny.matrix("head"), embedding = c.tied_head ? head : tiny.matrix("embedding");
    const size_t hidden = static_cast<size_t>(c.hidden_size), dim = static_cast<size_t>(c.head_dim), inner = static_cast<size_t>(c.mlp_size);
    const size_t heads = static_cast<size_t>(c.num_heads), kv_heads = static_cast<size_t>(c.num_kv_heads);
    std::vector<Row> x;
    for (int32_t token : tokens) {
        const float* row = embedding.data() + static_cast<size_t>(token) * hidden;
        x.emplace_back(row, row + hidden);
    }
    for (int64_t i = 0; i < c.num_layers; ++i) {
        const std::string at = "layers." + std::to_string(i) + ".";
        const std::vector<float> qkv = tiny.matrix(at + "qkv"), output = tiny.matrix(at + "output"), gate_up = tiny.matrix(at + "gate_up"), down = tiny.matrix(at + "down");
        std::vector<Row> projected;
        for (size_t p = 0; p < x.size(); ++p) {
            Row row = product(qkv, tiny.vector(at + "qkv_bias"), normed(x[p], tiny.vector(at + "attention_norm"), static_cast<double>(c.norm_eps)), c.qkv_size());
            for (size_t head_index = 0; head_index < heads + kv_heads; ++head_index) {
                Row one(row.begin() + static_cast<long>(head_index * dim), row.begin() + static_cast<long>((head_index + 1) * dim));
                const float* norm = tiny.vector(at + (head_index < heads ? "query_norm" : "key_norm"));
                if (norm != nullptr) one = normed(one, norm, static_cast<double>(c.norm_eps));
                for (size_t j = 0; j < dim / 2; ++j) {
                    const double cosine = static_cast<double>(tiny.cos[p * dim / 2 + j]), sine = static_cast<double>(tiny.sin[p * dim / 2 + j]);
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
                const size_t kv = h / (heads / kv_heads), first = window > 0 && p + 1 > static_cast<size_t>(window) ? p + 1 - static_cast<size_t>(window) : 0;
                Row weights;
                double mass = 0;
                for (size_t other = first; other <= p; ++other) {
                    double score = 0;
                    for (size_t j = 0; j < dim; ++j) score += projected[p][h * dim + j] * projected[other][(heads + kv) * dim + j];
                    weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
                    mass += weights.back();
                }
                for (size_t other = first; other <= p; ++other)
                    for (size_t j = 0; j < dim; ++j)
                        attended[h * dim + j] += weights[other - first] / mass * projected[other][(heads + kv_heads + kv) * dim + j];
            }
            const Row update = product(output, tiny.vector(at + "output_bias"), attended, c.hidden_size);
            for (size_t j = 0; j < hidden; ++j) x[p][j] += update[j];
            const Row both = product(gate_up, tiny.vector(at + "gate_up_bias"), normed(x[p], tiny.vector(at + "mlp_norm"), static_cast<double>(c.norm_eps)), c.gate_up_size());
            Row middle(inner);
            for (size_t j = 0; j < inner; ++j) {   // blocks of 16 rows: gate, up, gate, up, ...
                const double gate = both[j / 16 * 32 + j % 16], up = both[j / 16 * 32 + 16 + j % 16];
                middle[j] = gate / (1 + std::exp(-gate)) * up;
            }
            const Row last = product(down, tiny.vector(at + "down_bias"), middle, c.hidden_size);
            for (size_t j = 0; j < hidden; ++j) x[p][j] += last[j];
        }
    }
    std::vector<Row> logits;
    for (const Row& row : x) logits.push_back(product(head, nullptr, normed(row, tiny.vector("norm"), static_cast<double>(c.norm_eps)), c.vocab_size));
    return logits;
}

struct Sequence {
    std::vector<int32_t> tokens;
    std::vector<int32_t> table;
    int done = 0;
    std::vector<float> logits;   // of every token so far
};

// One step: `counts[s]` new tokens of each sequence (0: not in this step), all rows wanted. Or every `every`th, whose logits
// are returned alone (0: none).
std::vector<float> advance(Model& model, std::vector<Sequence>& sequences, const std::vector<int>& counts, int every = 1) {
    std::vector<int32_t> tokens, positions, starts{0}, contexts, tables, wanted;
    size_t width = 0;
    for (const Sequence& sequence : sequences) width = std::max(width, sequence.table.size());
    for (size_t s = 0; s < sequences.size(); ++s) {
        if (counts[s] == 0) continue;
        for (int i = 0; i < counts[s]; ++i) {
            tokens.push_back(sequences[s].tokens[static_cast<size_t>(sequences[s].done + i)]);
            positions.push_back(sequences[s].done + i);
            const auto row = static_cast<int32_t>(tokens.size()) - 1;
            if (every > 0 && row % every == every - 1) wanted.push_back(row);
        }
        starts.push_back(static_cast<int32_t>(tokens.size()));
        contexts.push_back(sequences[s].done);
        for (size_t i = 0; i < width; ++i) tables.push_back(i < sequences[s].table.size() ? sequences[s].table[i] : -1);
    }
    Batch batch{tokens.data(), positions.data(), starts.data(), contexts.data(), tables.data(), wanted.data(), static_cast<int>(tokens.size()),
                static_cast<int>(contexts.size()), static_cast<int>(width), static_cast<int>(wanted.size())};
    const float* logits = model.step(batch);
    const int64_t vocab = model.config().vocab_size;
    const std::vector<float> found(logits, logits + static_cast<int64_t>(wanted.size()) * vocab);
    for (size_t s = 0; s < sequences.size(); ++s) {
        if (every == 1) {
            sequences[s].logits.insert(sequences[s].logits.end(), logits, logits + counts[s] * vocab);
            logits += counts[s] * vocab;
        }
        sequences[s].done += counts[s];
    }
    return found;
}

// Take decode steps of all sequences in one call, from their token behind `done`; returns the tokens chosen.
std::vector<int32_t> burst(Model& model, const std::vector<Sequence>& sequences, int num_steps, const std::vector<int32_t>& stops,
                           const std::vector<Sampling>& sampling) {
    std::vector<int32_t> tokens, positions, starts{0}, tables, wanted, stop_starts{0}, chosen(sequences.size() * static_cast<size_t>(num_steps));
    for (const Sequence& sequence : sequences) {
        wanted.push_back(static_cast<int32_t>(tokens.size()));
        tokens.push_back(sequence.tokens[static_cast<size_t>(sequence.done)]);
        positions.push_back(sequence.done);
        starts.push_back(static_cast<int32_t>(tokens.size()));
        stop_starts.push_back(static_cast<int32_t>(stops.size()));   // all of the first sequence
        tables.insert(tables.end(), sequence.table.begin(), sequence.table.end());
    }
    const int n = static_cast<int>(sequences.size());
    Batch batch{tokens.data(), positions.data(), starts.data(), positions.data(), tables.data(), wanted.data(), n, n,
                static_cast<int>(sequences[0].table.size()), n};
    const int done = model.decode(batch, {num_steps, 1e9, stop_starts.data(), stops.data(), sampling.data()}, chosen.data());
    chosen.resize(static_cast<size_t>(done) * sequences.size());
    return chosen;
}

std::vector<Sequence> make_sequences(const Config& c, int count, int length, int block_size, std::mt19937& random) {
    std::vector<Sequence> sequences(static_cast<size_t>(count));
    std::vector<int32_t> blocks;
    const int each = (length + block_size - 1) / block_size;
    for (int i = 0; i < each * count; ++i) blocks.push_back(i);
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (size_t s = 0; s < sequences.size(); ++s) {
        for (int i = 0; i < length; ++i) sequences[s].tokens.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(c.vocab_size)));
        sequences[s].table.assign(blocks.begin() + static_cast<long>(s) * each, blocks.begin() + static_cast<long>(s + 1) * each);
    }
    return sequences;
}

double relative_error(const std::vector<float>& got, const std::vector<Row>& want) {
    double error = 0, size = 0;
    size_t at = 0;
    for (const Row& row : want)
        for (double value : row) error += std::pow(static_cast<double>(got[at++]) - value, 2), size += value * value;
    return std::sqrt(error / size);
}

int draw_alone(const Kernels& kernels, const float* row, int64_t size, const Sampling& sampling, double at) {
    DrawSpace space;
    space.reserve(size);
    kernels.enter();
    const int token = draw(kernels, row, size, sampling, at, space);
    kernels.leave();
    return token;
}

// Several decode steps in one call choose what single steps choose; a stop id, and haste, end them early.
void try_burst(Model& model, std::vector<Sequence> sequences, const std::vector<Sampling>& sampling, const std::string& label) {
    constexpr int kSteps = 24;
    for (size_t s = 0; s < sequences.size(); ++s) sequences[s].done = 20 + 7 * static_cast<int>(s);   // what follows is written anew
    const std::vector<Sequence> before = sequences;
    std::vector<int32_t> want;
    const auto vocab = static_cast<long>(model.config().vocab_size);
    for (int i = 0; i < kSteps; ++i) {
        for (Sequence& sequence : sequences) sequence.logits.clear();
        advance(model, sequences, std::vector<int>(sequences.size(), 1));
        for (size_t s = 0; s < sequences.size(); ++s) {
            Sequence& sequence = sequences[s];
            want.push_back(sampling[s].temperature == 0
                ? static_cast<int32_t>(std::max_element(sequence.logits.begin(), sequence.logits.begin() + vocab) - sequence.logits.begin())
                : draw_alone(model.kernels(), sequence.logits.data(), vocab, sampling[s], uniform(sampling[s].seed, sequence.done)));
            sequence.tokens[static_cast<size_t>(sequence.done)] = want.back();
        }
    }
    expect(burst(model, before, kSteps, {}, sampling) == want, label + ": a burst chooses other tokens than single steps");
    const std::vector<int32_t> stops{-1, want[sequences.size() * 5]};
    const size_t first = [&] {   // where the first sequence meets it for the first time
        size_t at = 0;
        while (want[at] != stops[1]) at += sequences.size();
        return at;
    }();
    want.resize(first + sequences.size());
    expect(burst(model, before, kSteps, stops, sampling) == want, label + ": a burst does not end with a stop id");
    model.hurry(true);
    expect(burst(model, before, kSteps, {}, sampling).size() == sequences.size(), label + ": a burst in a hurry takes more than one step");
    model.hurry(false);
    bool refused = false;
    try {
        burst(model, before, 1 << 20, {}, sampling);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    expect(refused, label + ": accepted a burst beyond the context");
}

// Rows taken apart and columns taken together give the same bits: prompts, steps of many decodes, few or no logits, bursts.
void try_apart(const Config& config, const Tiny& tiny, Options options, const std::string& label) {
    std::mt19937 random(5);
    constexpr int kCount = 56, kLength = 64;
    const std::vector<Sequence> fresh = make_sequences(config, kCount, kLength, options.block_size, random);
    options.num_blocks = kCount * ((kLength + options.block_size - 1) / options.block_size);
    std::vector<int> begin, one(kCount, 1);
    for (int s = 0; s < kCount; ++s) begin.push_back(1 + static_cast<int>(random() % 30));
    std::vector<std::vector<float>> logits[2];
    std::vector<int32_t> chosen[2];
    for (int way = 0; way < 2; ++way) {
        options.rows_apart = way == 0 ? 1 << 20 : 16;
        Model model(config, tiny.packed.data(), tiny.cos.data(), tiny.sin.data(), options);
        std::vector<Sequence> sequences = fresh;
        logits[way].push_back(advance(model, sequences, begin, 2));
        for (int every : {1, 3, 56, 0, 1}) logits[way].push_back(advance(model, sequences, one, every));
        chosen[way] = burst(model, sequences, 6, {}, std::vector<Sampling>(kCount, Sampling{0.9, 0, 0.95, 0, 3}));
    }
    for (size_t i = 0; i < logits[0].size(); ++i)
        expect(logits[0][i].size() == logits[1][i].size() && (logits[0][i].empty() || std::memcmp(logits[0][i].data(), logits[1][i].data(), logits[0][i].size() * 4) == 0),
               label + ": other bits apart, in step " + std::to_string(i));
    expect(chosen[0].size() == 6 * kCount && chosen[0] == chosen[1], label + ": a burst apart chooses other tokens");
}

void try_model(const Config& config, const std::string& label, bool quick) {
    std::mt19937 random(7);
    const Tiny tiny(config, 11);
    const int length = quick ? 70 : 330, count = 3, block_size = 32;
    const std::vector<Sequence> fresh = make_sequences(config, count, length, block_size, random);
    const std::vector<Row> want = reference(tiny, fresh[0].tokens);
    const double bound = config.format == Format::float32 ? 2e-6 : 2e-2;   // the others keep keys and values in bf16
    std::vector<float> fused;   // of the first instruction set of those that sum in one order
    for (const std::string& isa : isas) {
        Options options;
        options.num_blocks = count * ((length + block_size - 1) / block_size), options.block_size = block_size;
        options.num_threads = num_threads, options.isa = isa;
        Model whole(config, tiny.packed.data(), tiny.cos.data(), tiny.sin.data(), options);
        std::vector<Sequence> alone = fresh;
        for (size_t s = 0; s < alone.size(); ++s) {   // each sequence alone, in one chunk
            std::vector<int> counts(alone.size(), 0);
            counts[s] = length;
            advance(whole, alone, counts);
        }
        const double error = relative_error(alone[0].logits, want);
        std::printf("%-34s %-9s error %.1e\n", label.c_str(), isa.c_str(), error);
        expect(error < bound, label + " on " + isa + ": the error is " + std::to_string(error));
        if (isa == "amx" || isa == "avx512" || isa == "avx2") {
            if (fused.empty()) fused = alone[0].logits;
            expect(std::memcmp(fused.data(), alone[0].logits.data(), fused.size() * 4) == 0, label + " on " + isa + ": other bits than on " + isas.front());
        }
        try_apart(config, tiny, options, label + " on " + isa);
        options.rows_apart = 16;   // so that steps of few rows are taken that way too
        Model mixed(config, tiny.packed.data(), tiny.cos.data(), tiny.sin.data(), options);
        std::vector<Sequence> together = fresh;
        while (true) {   // random mixtures of decodes and chunks
            std::vector<int> counts;
            int total = 0;
            for (const Sequence& sequence : together) {
                const int sizes[] = {0, 1, 1, 1, 2, 5, 17, 40};
                counts.push_back(std::min(sizes[random() % 8], length - sequence.done));
                total += counts.back();
            }
            bool left = false;
            for (const Sequence& sequence : together) left = left || sequence.done < length;
            if (!left) break;
            if (total > 0) advance(mixed, together, counts);
        }
        bool same = true;
        for (size_t s = 0; s < together.size(); ++s)
            same = same && std::memcmp(together[s].logits.data(), alone[s].logits.data(), alone[s].logits.size() * 4) == 0;
        expect(same, label + " on " + isa + ": bits depend on the batch or the chunks");
        try_burst(whole, alone, std::vector<Sampling>(count), label + " on " + isa);
        try_burst(whole, alone, {{0.8, 0, 1, 0, 5}, {0, 0, 1, 0, 6}, {1.2, 20, 0.95, 0.01, ~uint64_t{0}}}, label + ", drawn, on " + isa);
    }
}

// The weights of the rule written out, in double precision and by full sorting.
std::vector<double> plain_weights(const std::vector<float>& row, const Sampling& sampling) {
    std::vector<size_t> order(row.size());
    for (size_t i = 0; i < row.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&row](size_t a, size_t b) { return row[a] > row[b]; });
    if (sampling.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(sampling.top_k)));
    const double top = static_cast<double>(row[order[0]]);
    auto weight = [&](size_t i) { return std::exp((static_cast<double>(row[i]) - top) / std::max(sampling.temperature, 1e-6)); };
    double total = 0, sum = 0;
    for (size_t i : order) total += weight(i);
    std::vector<double> weights(row.size());
    for (size_t i : order) {
        if (sampling.top_p < 1 && sum >= sampling.top_p * total * (1 - 1e-12)) break;
        sum += weight(i);
        if (weight(i) >= sampling.min_p) weights[i] = weight(i);
    }
    return weights;
}

// The token under the draw is the one that the rule says; what is at the very edge of a cut may fall on either side.
void try_draws(const std::string& isa, bool quick) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    const Kernels& kernels = choose_kernels(isa);
    const Sampling all[] = {{1, 0, 1, 0, 0}, {2, 0, 1, 0, 0}, {1e-6, 0, 1, 0, 0}, {1, 1, 1, 0, 0}, {0.7, 40, 1, 0, 0}, {1, 2000, 1, 0, 0}, {1, 0, 0.95, 0, 0},
                            {1.5, 0, 1e-9, 0, 0}, {1, 0, 0.5, 0.2, 0}, {1, 0, 1, 0.05, 0}, {1, 0, 1, 1, 0}, {1, 300, 0.9, 0.01, 0}, {1, 30, 0.999, 0, 0}};
    for (int64_t size : {1, 16, 61, 700, 2048, quick ? 3000 : 49152})
        for (float levels : {0.0f, 1.0f}) {   // few levels: many ties
            std::vector<float> row(static_cast<size_t>(size));
            for (float& value : row) value = levels > 0 ? std::round(2 * normal(random)) : 2 * normal(random);
            for (const Sampling& sampling : all) {
                const std::vector<double> weights = plain_weights(row, sampling);
                double total = 0;
                for (double weight : weights) total += weight;
                for (double at : {0.0, 0.25, 0.7, 1 - 1e-15}) {
                    const int token = draw_alone(kernels, row.data(), size, sampling, at);
                    double low = 0;
                    for (int i = 0; i < token; ++i) low += weights[static_cast<size_t>(i)] / total;
                    const double high = low + weights[static_cast<size_t>(std::max(token, 0))] / total;
                    expect(token >= 0 && low - 1e-4 <= at && at <= high + 1e-4,
                           "a draw of " + std::to_string(size) + " on " + isa + ": " + std::to_string(at) + " is not in " + std::to_string(low) + " to " + std::to_string(high));
                }
            }
            expect(draw_alone(kernels, row.data(), size, {}, 0) == std::max_element(row.begin(), row.end()) - row.begin(), "the likeliest on " + isa);
            row.back() = std::nanf("");
            expect(draw_alone(kernels, row.data(), size, {}, 0) == -1, "a token from what is no number on " + isa);
            row.back() = -INFINITY;
            expect(draw_alone(kernels, row.data(), size, {1, 0, 1, 0, 0}, 0.999999999) == (size == 1 ? -1 : static_cast<int>(size) - 2), "a token that is ruled out on " + isa);
        }
}

void try_refusals() {
    const Config config{.vocab_size = 40, .hidden_size = 32, .num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim = 16, .mlp_size = 32,
                        .context_length = 64, .tied_head = true, .qk_norm = false, .qkv_bias = false, .output_bias = false, .mlp_bias = false,
                        .norm_eps = 1e-5f, .windows = {0}, .format = Format::float32, .head_format = Format::float32};
    const Tiny tiny(config, 3);
    Options options;
    options.num_blocks = 2;
    Model model(config, tiny.packed.data(), tiny.cos.data(), tiny.sin.data(), options);
    struct Bad { const char* what; int32_t token, position, start, context, block, wanted; };
    const Bad bads[] = {{"token too large", 40, 0, 1, 0, 0, 0}, {"token negative", -1, 0, 1, 0, 0, 0}, {"position", 1, 3, 1, 0, 0, 0},
                        {"starts", 1, 0, 2, 0, 0, 0}, {"context negative", 1, -1, 1, -1, 0, 0}, {"context too long", 1, 64, 1, 64, 0, 0},
                        {"block too large", 1, 0, 1, 0, 2, 0}, {"block missing", 1, 0, 1, 0, -1, 0}, {"table too short", 1, 32, 1, 32, 0, 0},
                        {"row outside", 1, 0, 1, 0, 0, 1}, {"row negative", 1, 0, 1, 0, 0, -1}};
    for (const Bad& bad : bads) {
        const int32_t starts[] = {0, bad.start};
        Batch batch{&bad.token, &bad.position, starts, &bad.context, &bad.block, &bad.wanted, 1, 1, 1, 1};
        bool refused = false;
        try {
            model.step(batch);
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        expect(refused, std::string("accepted a batch with a bad ") + bad.what);
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    bool quick = false;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--quick") quick = true;
        else if (argument.rfind("--threads=", 0) == 0) num_threads = std::atoi(argument.c_str() + 10);
        else isas.push_back(argument);
    }
    if (isas.empty()) isas = available_isas();
#if defined(TUITION_EMULATE_TILES)
    std::printf("amx is emulated: its layout and arithmetic are checked, not silicon or speed\n");
#endif
    const char* names[] = {"float32", "bf16", "int8", "int4", "int4min"};
    for (int format = 0; format < 5; ++format) {
        const Format f = static_cast<Format>(format);
        Config everything{.vocab_size = 61, .hidden_size = 72, .num_layers = 2, .num_heads = 6, .num_kv_heads = 2, .head_dim = 16, .mlp_size = 90,
                          .context_length = 400, .tied_head = false, .qk_norm = true, .qkv_bias = true, .output_bias = true, .mlp_bias = true,
                          .norm_eps = 1e-5f, .windows = {0, 37}, .format = f, .head_format = f};
        try_model(everything, std::string(names[format]) + ", every feature", quick);
        Config plain{.vocab_size = 64, .hidden_size = 128, .num_layers = 2, .num_heads = 5, .num_kv_heads = 1, .head_dim = 48, .mlp_size = 192,
                     .context_length = 400, .tied_head = true, .qk_norm = false, .qkv_bias = false, .output_bias = false, .mlp_bias = false,
                     .norm_eps = 1e-6f, .windows = {0, 0}, .format = f, .head_format = is_integer(f) ? Format::int8 : f};
        try_model(plain, std::string(names[format]) + ", head_dim 48, 5 to 1", quick);
    }
    for (const std::string& isa : isas) try_draws(isa, quick);
    try_refusals();
    expect(read_bandwidth(1 << 20, 2, 0.01, false) > 0, "no bandwidth");
    for (const char* kind : {"float32", "bf16", "int8"}) expect(matrix_rate(kind, 2, 0.01, "auto", false) > 0, "no matrix rate");
    std::printf(failures == 0 ? "all parity checks passed\n" : "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}

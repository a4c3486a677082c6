// Sequences of the driver, and the steps and bursts that they take.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "model.hpp"
#include "tiny.hpp"

namespace driver {

struct Sequence {
    std::vector<int32_t> tokens;
    std::vector<int32_t> table;
    int done = 0;
    int variant = -1;
    std::vector<float> logits;  // of every token so far
};

// Null where no row has one, as the package passes it.
inline const int32_t* with_variants(const std::vector<int32_t>& variants) {
    return std::all_of(variants.begin(), variants.end(), [](int32_t one) { return one < 0; })
               ? nullptr
               : variants.data();
}

// One step: `counts[s]` new tokens of each sequence (0: not in this step), all rows wanted. Or every
// `every`th, whose logits are returned alone (0: none).
inline std::vector<float> advance(Model& model, std::vector<Sequence>& sequences,
                                  const std::vector<int>& counts, int every = 1) {
    std::vector<int32_t> tokens, positions, starts{0}, contexts, tables, wanted, variants;
    size_t width = 0;
    for (const Sequence& sequence : sequences) width = std::max(width, sequence.table.size());
    for (size_t s = 0; s < sequences.size(); ++s) {
        if (counts[s] == 0) continue;
        for (int i = 0; i < counts[s]; ++i) {
            tokens.push_back(sequences[s].tokens[static_cast<size_t>(sequences[s].done + i)]);
            positions.push_back(sequences[s].done + i);
            variants.push_back(sequences[s].variant);
            const auto row = static_cast<int32_t>(tokens.size()) - 1;
            if (every > 0 && row % every == every - 1) wanted.push_back(row);
        }
        starts.push_back(static_cast<int32_t>(tokens.size()));
        contexts.push_back(sequences[s].done);
        for (size_t i = 0; i < width; ++i)
            tables.push_back(i < sequences[s].table.size() ? sequences[s].table[i] : -1);
    }
    Batch batch{tokens.data(),
                positions.data(),
                starts.data(),
                contexts.data(),
                tables.data(),
                wanted.data(),
                static_cast<int>(tokens.size()),
                static_cast<int>(contexts.size()),
                static_cast<int>(width),
                static_cast<int>(wanted.size()),
                with_variants(variants)};
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
inline std::vector<int32_t> burst(Model& model, const std::vector<Sequence>& sequences, int num_steps,
                                  const std::vector<int32_t>& stops, const std::vector<Sampling>& sampling) {
    std::vector<int32_t> tokens, positions, starts{0}, tables, wanted, variants, stop_starts{0},
        chosen(sequences.size() * static_cast<size_t>(num_steps));
    for (const Sequence& sequence : sequences) {
        wanted.push_back(static_cast<int32_t>(tokens.size()));
        tokens.push_back(sequence.tokens[static_cast<size_t>(sequence.done)]);
        positions.push_back(sequence.done);
        variants.push_back(sequence.variant);
        starts.push_back(static_cast<int32_t>(tokens.size()));
        stop_starts.push_back(static_cast<int32_t>(stops.size()));  // all of the first sequence
        tables.insert(tables.end(), sequence.table.begin(), sequence.table.end());
    }
    const int n = static_cast<int>(sequences.size());
    Batch batch{tokens.data(),
                positions.data(),
                starts.data(),
                positions.data(),
                tables.data(),
                wanted.data(),
                n,
                n,
                static_cast<int>(sequences[0].table.size()),
                n,
                with_variants(variants)};
    const int done = model.decode(batch, {num_steps, 1e9, stop_starts.data(), stops.data(), sampling.data()},
                                  chosen.data());
    chosen.resize(static_cast<size_t>(done) * sequences.size());
    return chosen;
}

inline std::vector<Sequence> make_sequences(const Config& c, int count, int length, int block_size,
                                            std::mt19937& random) {
    std::vector<Sequence> sequences(static_cast<size_t>(count));
    std::vector<int32_t> blocks;
    const int each = (length + block_size - 1) / block_size;
    for (int i = 0; i < each * count; ++i) blocks.push_back(i);
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (size_t s = 0; s < sequences.size(); ++s) {
        for (int i = 0; i < length; ++i)
            sequences[s].tokens.push_back(
                static_cast<int32_t>(random() % static_cast<uint32_t>(c.vocab_size)));
        sequences[s].table.assign(blocks.begin() + static_cast<long>(s) * each,
                                  blocks.begin() + static_cast<long>(s + 1) * each);
    }
    return sequences;
}

inline double relative_error(const std::vector<float>& got, const std::vector<Row>& want) {
    double error = 0, size = 0;
    size_t at = 0;
    for (const Row& row : want)
        for (double value : row)
            error += std::pow(static_cast<double>(got[at++]) - value, 2), size += value * value;
    return std::sqrt(error / size);
}

}  // namespace driver

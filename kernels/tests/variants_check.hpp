// Variants of the weights: against the reference with merged weights, and the same bits in any company.
#pragma once

#include <cstring>
#include <memory>

#include "steps.hpp"

namespace driver {

struct Thin {  // a variant, and the arrays that its pairs point to
    std::vector<std::unique_ptr<std::vector<float>>> arrays;
    std::vector<ThinPair> pairs;
    std::map<std::string, std::vector<float>> added;  // what it is, merged: by part of the plan

    Thin(const Config& c, const std::vector<std::string>& matrices, int64_t rank, uint32_t seed) {
        std::mt19937 random(seed);
        const Plan plan(c);
        for (int64_t layer = 0; layer < c.num_layers; ++layer)
            for (const std::string& name : matrices) {
                const bool inner = name == "gate" || name == "up";
                const int64_t inputs = name == "output" ? c.query_size()
                                       : name == "down" ? c.mlp_size
                                                        : c.hidden_size;
                const int64_t outputs = name == "query"                    ? c.query_size()
                                        : name == "key" || name == "value" ? c.kv_size()
                                        : inner                            ? c.mlp_size
                                                                           : c.hidden_size;
                const float* down = draw(rank * inputs, 1.0f / std::sqrt(static_cast<float>(inputs)), random);
                const float* up = draw(outputs * rank, 0.3f / std::sqrt(static_cast<float>(rank)), random);
                pairs.push_back({layer, name, down, up, rank, inputs, outputs});
                const std::string part = "layers." + std::to_string(layer) + "." +
                                         (name == "output" || name == "down" ? name
                                          : inner                            ? "gate_up"
                                                                             : "qkv");
                std::vector<float>& sum = added[part];
                sum.resize(static_cast<size_t>(plan.at(part).rows * inputs));
                const int64_t before = name == "key"     ? c.query_size()
                                       : name == "value" ? c.query_size() + c.kv_size()
                                                         : 0;
                for (int64_t n = 0; n < outputs; ++n) {
                    const int64_t row = inner ? n / 16 * 32 + n % 16 + (name == "up" ? 16 : 0) : before + n;
                    for (int64_t k = 0; k < inputs; ++k)
                        for (int64_t r = 0; r < rank; ++r)
                            sum[static_cast<size_t>(row * inputs + k)] +=
                                up[n * rank + r] * down[r * inputs + k];
                }
            }
    }

    const float* draw(int64_t size, float spread, std::mt19937& random) {
        std::normal_distribution<float> normal(0.0f, spread);
        arrays.push_back(std::make_unique<std::vector<float>>());
        for (int64_t i = 0; i < size; ++i) arrays.back()->push_back(normal(random));
        return arrays.back()->data();
    }
};

inline bool refuses(Model& model, std::vector<ThinPair> pairs) {
    try {
        model.add_variant(pairs);
    } catch (const std::invalid_argument&) { return true; }
    return false;
}

// Logits of whole sequences, each taken alone.
inline std::vector<Sequence> taken_alone(Model& model, std::vector<Sequence> sequences) {
    for (size_t s = 0; s < sequences.size(); ++s) {
        std::vector<int> counts(sequences.size(), 0);
        counts[s] = static_cast<int>(sequences[s].tokens.size());
        advance(model, sequences, counts);
    }
    return sequences;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

inline void try_variants(const Config& config, const Tiny& tiny, Options options, const std::string& label,
                         bool quick) {
    std::mt19937 random(9);
    const int length = quick ? 40 : 96, each = (length + options.block_size - 1) / options.block_size;
    const std::vector<std::string> all{"query", "key", "value", "output", "gate", "up", "down"};
    const Thin first(config, all, 5, 21), second(config, {"query", "value"}, 18, 22),
        third(config, {"up", "down"}, 33, 23);
    std::vector<Sequence> fresh = make_sequences(config, 6, length, options.block_size, random);
    options.num_blocks = 6 * each;
    Model plain(config, tiny.packed.data(), {tiny.cos.data(), tiny.sin.data()}, options);
    const std::vector<Sequence> base = taken_alone(plain, fresh);
    Model model(config, tiny.packed.data(), {tiny.cos.data(), tiny.sin.data()}, options);
    const int slots[] = {model.add_variant(first.pairs), model.add_variant(second.pairs),
                         model.add_variant(third.pairs)};
    const int of[] = {slots[0], -1, slots[1], slots[2], -1, slots[0]};
    for (size_t s = 0; s < fresh.size(); ++s) fresh[s].variant = of[s];
    const std::vector<Sequence> alone = taken_alone(model, fresh);
    const double bound = config.format == Format::float32 ? 2e-6 : 2e-2;
    const Thin* const thin[] = {&first, nullptr, &second, &third, nullptr, nullptr};
    for (size_t s = 0; s < 4; ++s) {
        Tiny merged(config, 11);
        if (thin[s] != nullptr) merged.added = thin[s]->added;
        const double error = relative_error(alone[s].logits, reference(merged, fresh[s].tokens));
        expect(error < bound,
               label + ": the error of variant " + std::to_string(s) + " is " + std::to_string(error));
    }
    expect(same_bits(alone[1].logits, base[1].logits) && same_bits(alone[4].logits, base[4].logits),
           label + ": a row without a variant has other bits beside variants");
    expect(!same_bits(alone[0].logits, base[0].logits), label + ": a variant changes nothing");
    for (int rows_apart : {16, 1 << 20}) {
        options.rows_apart = rows_apart;
        Model mixed(config, tiny.packed.data(), {tiny.cos.data(), tiny.sin.data()}, options);
        for (const Thin* one : {&third, &first, &second}) mixed.add_variant(one->pairs);  // other slots
        mixed.remove_variant(0);
        expect(mixed.add_variant(third.pairs) == 0, label + ": a free slot is not used again");
        std::vector<Sequence> together = fresh;
        for (Sequence& one : together) one.variant = one.variant < 0 ? -1 : (one.variant + 1) % 3;
        for (bool left = true; left;) {
            std::vector<int> counts;
            int total = 0;
            left = false;
            for (const Sequence& one : together) {
                const int sizes[] = {0, 1, 1, 2, 5, 17, 40};
                counts.push_back(std::min(sizes[random() % 7], length - one.done));
                total += counts.back();
            }
            if (total > 0) advance(mixed, together, counts);
            for (const Sequence& one : together) left = left || one.done < length;
        }
        for (size_t s = 0; s < together.size(); ++s)
            expect(same_bits(together[s].logits, alone[s].logits),
                   label + ": bits of a variant depend on the batch, sequence " + std::to_string(s));
        // the rows whose logits are wanted are moved to the front, and their variants with them
        for (Sequence& one : together) one.done = 20;
        const std::vector<float> wanted = advance(mixed, together, std::vector<int>(together.size(), 3), 2);
        for (size_t i = 0; i < 9; ++i) {
            const auto vocab = static_cast<size_t>(config.vocab_size), row = 2 * i + 1;
            const float* want = alone[row / 3].logits.data() + (20 + row % 3) * vocab;
            expect(std::memcmp(wanted.data() + i * vocab, want, vocab * 4) == 0,
                   label + ": a wanted row has the variant of another");
        }
        for (size_t s = 0; s < together.size(); ++s) together[s].done = 20 + static_cast<int>(s);
        const std::vector<int32_t> chosen = burst(mixed, together, 5, {}, std::vector<Sampling>(6));
        for (size_t s = 0; s < together.size(); ++s) {
            std::vector<Sequence> one{together[s]};
            std::vector<int32_t> own;
            for (int i = 0; i < 5; ++i) {
                own.push_back(burst(mixed, one, 1, {}, std::vector<Sampling>(1))[0]);
                one[0].tokens[static_cast<size_t>(++one[0].done)] = own.back();
                expect(own.back() == chosen[static_cast<size_t>(i) * 6 + s],
                       label + ": a burst of variants chooses other tokens");
            }
        }
    }
    std::vector<ThinPair> bad(first.pairs.begin(), first.pairs.begin() + 2);
    expect(refuses(model, {}), label + ": accepted an empty variant");
    for (int kind = 0; kind < 6; ++kind) {
        std::vector<ThinPair> pairs = bad;
        if (kind == 0) pairs[0].layer = config.num_layers;
        if (kind == 1) pairs[0].matrix = "head";
        if (kind == 2) pairs[0].rank = 0;
        if (kind == 3) ++pairs[0].inputs;
        if (kind == 4) --pairs[0].outputs;
        if (kind == 5) pairs[1] = pairs[0];
        expect(refuses(model, pairs), label + ": accepted a bad pair, kind " + std::to_string(kind));
    }
    fresh[0].variant = 7;
    bool refused = false;
    try {
        advance(model, fresh, {1, 0, 0, 0, 0, 0});
    } catch (const std::invalid_argument&) { refused = true; }
    expect(refused, label + ": accepted the slot of no variant");
}

}  // namespace driver

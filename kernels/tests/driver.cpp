// The parity driver, in C++ so that the sanitizers can watch all of it: random small models of every feature,
// on every instruction set of this machine, in every format, against a plain reference in double precision;
// the same bits whatever the batch and the chunks; and batches that do not fit are refused.
//
//   driver           all instruction sets          driver --quick   fewer steps (under sanitizers)
//   driver amx ...   these instruction sets alone  driver --threads=1
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpuid.hpp"
#include "draw.hpp"
#include "draws.hpp"
#include "model.hpp"
#include "probe.hpp"
#include "steps.hpp"
#include "tiny.hpp"
#include "variants_check.hpp"

using namespace tuition;
using namespace driver;

namespace {

std::vector<std::string> isas;
int num_threads = 3;

// Several decode steps in one call choose what single steps choose; a stop id, and haste, end them early.
void try_burst(Model& model, std::vector<Sequence> sequences, const std::vector<Sampling>& sampling,
               const std::string& label) {
    constexpr int kSteps = 24;
    for (size_t s = 0; s < sequences.size(); ++s)
        sequences[s].done = 20 + 7 * static_cast<int>(s);  // what follows is written anew
    const std::vector<Sequence> before = sequences;
    std::vector<int32_t> want;
    const auto vocab = static_cast<long>(model.config().vocab_size);
    for (int i = 0; i < kSteps; ++i) {
        for (Sequence& sequence : sequences) sequence.logits.clear();
        advance(model, sequences, std::vector<int>(sequences.size(), 1));
        for (size_t s = 0; s < sequences.size(); ++s) {
            Sequence& sequence = sequences[s];
            want.push_back(sampling[s].temperature == 0
                               ? static_cast<int32_t>(std::max_element(sequence.logits.begin(),
                                                                       sequence.logits.begin() + vocab) -
                                                      sequence.logits.begin())
                               : draw_alone(model.kernels(), sequence.logits.data(), vocab, sampling[s],
                                            uniform(sampling[s].seed, sequence.done)));
            sequence.tokens[static_cast<size_t>(sequence.done)] = want.back();
        }
    }
    expect(burst(model, before, kSteps, {}, sampling) == want,
           label + ": a burst chooses other tokens than single steps");
    const std::vector<int32_t> stops{-1, want[sequences.size() * 5]};
    const size_t first = [&] {  // where the first sequence meets it for the first time
        size_t at = 0;
        while (want[at] != stops[1]) at += sequences.size();
        return at;
    }();
    want.resize(first + sequences.size());
    expect(burst(model, before, kSteps, stops, sampling) == want,
           label + ": a burst does not end with a stop id");
    model.hurry(true);
    expect(burst(model, before, kSteps, {}, sampling).size() == sequences.size(),
           label + ": a burst in a hurry takes more than one step");
    model.hurry(false);
    bool refused = false;
    try {
        burst(model, before, 1 << 20, {}, sampling);
    } catch (const std::invalid_argument&) { refused = true; }
    expect(refused, label + ": accepted a burst beyond the context");
}

// Rows taken apart and columns taken together give the same bits: prompts, steps of many decodes, few or no
// logits, bursts.
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
        Model model(config, tiny.packed.data(), {tiny.cos.data(), tiny.sin.data()}, options);
        std::vector<Sequence> sequences = fresh;
        logits[way].push_back(advance(model, sequences, begin, 2));
        for (int every : {1, 3, 56, 0, 1}) logits[way].push_back(advance(model, sequences, one, every));
        chosen[way] =
            burst(model, sequences, 6, {}, std::vector<Sampling>(kCount, Sampling{0.9, 0, 0.95, 0, 3}));
    }
    for (size_t i = 0; i < logits[0].size(); ++i)
        expect(logits[0][i].size() == logits[1][i].size() &&
                   (logits[0][i].empty() ||
                    std::memcmp(logits[0][i].data(), logits[1][i].data(), logits[0][i].size() * 4) == 0),
               label + ": other bits apart, in step " + std::to_string(i));
    expect(chosen[0].size() == 6 * kCount && chosen[0] == chosen[1],
           label + ": a burst apart chooses other tokens");
}

void try_model(const Config& config, const std::string& label, bool quick) {
    std::mt19937 random(7);
    const Tiny tiny(config, 11);
    const int length = quick ? 70 : 330, count = 3, block_size = 32;
    const std::vector<Sequence> fresh = make_sequences(config, count, length, block_size, random);
    const std::vector<Row> want = reference(tiny, fresh[0].tokens);
    const double bound =
        config.format == Format::float32 ? 2e-6 : 2e-2;  // the others keep keys and values in bf16
    std::vector<float> fused;  // of the first instruction set of those that sum in one order
    for (const std::string& isa : isas) {
        Options options;
        options.num_blocks = count * ((length + block_size - 1) / block_size),
        options.block_size = block_size;
        options.num_threads = num_threads, options.isa = isa;
        Model whole(config, tiny.packed.data(), {tiny.cos.data(), tiny.sin.data()}, options);
        std::vector<Sequence> alone = fresh;
        for (size_t s = 0; s < alone.size(); ++s) {  // each sequence alone, in one chunk
            std::vector<int> counts(alone.size(), 0);
            counts[s] = length;
            advance(whole, alone, counts);
        }
        const double error = relative_error(alone[0].logits, want);
        std::printf("%-34s %-9s error %.1e\n", label.c_str(), isa.c_str(), error);
        expect(error < bound, label + " on " + isa + ": the error is " + std::to_string(error));
        if (isa == "amx" || isa == "avx512" || isa == "avx2") {
            if (fused.empty()) fused = alone[0].logits;
            expect(std::memcmp(fused.data(), alone[0].logits.data(), fused.size() * 4) == 0,
                   label + " on " + isa + ": other bits than on " + isas.front());
        }
        try_apart(config, tiny, options, label + " on " + isa);
        try_variants(config, tiny, options, label + " on " + isa, quick);
        options.rows_apart = 16;  // so that steps of few rows are taken that way too
        Model mixed(config, tiny.packed.data(), {tiny.cos.data(), tiny.sin.data()}, options);
        std::vector<Sequence> together = fresh;
        while (true) {  // random mixtures of decodes and chunks
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
            same = same && std::memcmp(together[s].logits.data(), alone[s].logits.data(),
                                       alone[s].logits.size() * 4) == 0;
        expect(same, label + " on " + isa + ": bits depend on the batch or the chunks");
        try_burst(whole, alone, std::vector<Sampling>(count), label + " on " + isa);
        try_burst(whole, alone, {{0.8, 0, 1, 0, 5}, {0, 0, 1, 0, 6}, {1.2, 20, 0.95, 0.01, ~uint64_t{0}}},
                  label + ", drawn, on " + isa);
    }
}

void try_refusals() {
    const Config config{.vocab_size = 40,
                        .hidden_size = 32,
                        .num_layers = 1,
                        .num_heads = 2,
                        .num_kv_heads = 1,
                        .head_dim = 16,
                        .mlp_size = 32,
                        .context_length = 64,
                        .tied_head = true,
                        .qk_norm = false,
                        .qkv_bias = false,
                        .output_bias = false,
                        .mlp_bias = false,
                        .norm_eps = 1e-5f,
                        .windows = {0},
                        .format = Format::float32,
                        .head_format = Format::float32};
    const Tiny tiny(config, 3);
    Options options;
    options.num_blocks = 2;
    Model model(config, tiny.packed.data(), {tiny.cos.data(), tiny.sin.data()}, options);
    struct Bad {
        const char* what;
        int32_t token, position, start, context, block, wanted;
    };
    const Bad bads[] = {{"token too large", 40, 0, 1, 0, 0, 0},   {"token negative", -1, 0, 1, 0, 0, 0},
                        {"position", 1, 3, 1, 0, 0, 0},           {"starts", 1, 0, 2, 0, 0, 0},
                        {"context negative", 1, -1, 1, -1, 0, 0}, {"context too long", 1, 64, 1, 64, 0, 0},
                        {"block too large", 1, 0, 1, 0, 2, 0},    {"block missing", 1, 0, 1, 0, -1, 0},
                        {"table too short", 1, 32, 1, 32, 0, 0},  {"row outside", 1, 0, 1, 0, 0, 1},
                        {"row negative", 1, 0, 1, 0, 0, -1}};
    for (const Bad& bad : bads) {
        const int32_t starts[] = {0, bad.start};
        Batch batch{&bad.token, &bad.position, starts, &bad.context, &bad.block, &bad.wanted, 1, 1, 1, 1};
        bool refused = false;
        try {
            model.step(batch);
        } catch (const std::invalid_argument&) { refused = true; }
        expect(refused, std::string("accepted a batch with a bad ") + bad.what);
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    bool quick = false;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--quick")
            quick = true;
        else if (argument.rfind("--threads=", 0) == 0)
            num_threads = std::atoi(argument.c_str() + 10);
        else
            isas.push_back(argument);
    }
    if (isas.empty()) isas = available_isas();
#if defined(TUITION_EMULATE_TILES)
    std::printf("amx is emulated: its layout and arithmetic are checked, not silicon or speed\n");
#endif
    const char* names[] = {"float32", "bf16", "int8", "int4", "int4min"};
    for (int format = 0; format < 5; ++format) {
        const Format f = static_cast<Format>(format);
        Config everything{.vocab_size = 61,
                          .hidden_size = 72,
                          .num_layers = 2,
                          .num_heads = 6,
                          .num_kv_heads = 2,
                          .head_dim = 16,
                          .mlp_size = 90,
                          .context_length = 400,
                          .tied_head = false,
                          .qk_norm = true,
                          .qkv_bias = true,
                          .output_bias = true,
                          .mlp_bias = true,
                          .norm_eps = 1e-5f,
                          .windows = {0, 37},
                          .format = f,
                          .head_format = f};
        try_model(everything, std::string(names[format]) + ", every feature", quick);
        Config plain{.vocab_size = 64,
                     .hidden_size = 128,
                     .num_layers = 2,
                     .num_heads = 5,
                     .num_kv_heads = 1,
                     .head_dim = 48,
                     .mlp_size = 192,
                     .context_length = 400,
                     .tied_head = true,
                     .qk_norm = false,
                     .qkv_bias = false,
                     .output_bias = false,
                     .mlp_bias = false,
                     .norm_eps = 1e-6f,
                     .windows = {0, 0},
                     .format = f,
                     .head_format = is_integer(f) ? Format::int8 : f};
        try_model(plain, std::string(names[format]) + ", head_dim 48, 5 to 1", quick);
    }
    for (const std::string& isa : isas) try_draws(isa, quick);
    try_refusals();
    expect(read_bandwidth(1 << 20, 2, 0.01, false) > 0, "no bandwidth");
    for (const char* kind : {"float32", "bf16", "int8"})
        expect(matrix_rate(kind, 2, 0.01, "auto", false) > 0, "no matrix rate");
    std::printf(failures == 0 ? "all parity checks passed\n" : "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}

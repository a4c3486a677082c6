// The Python face: `tuition_kernels._native`. Arrays are numpy; the interpreter lock is released while a step
// runs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>

#include "cpuid.hpp"
#include "draw.hpp"
#include "model.hpp"
#include "probe.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tuition {
namespace {

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Slots = std::optional<Vector<int32_t>>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using WritableBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The value of an enumeration whose names are listed in its order.
template <typename T>
T named(const char* what, const std::string& name, std::initializer_list<const char*> names) {
    std::string wanted;
    int value = 0;
    for (const char* one : names) {
        if (name == one) return static_cast<T>(value);
        wanted += (value++ ? ", " : "") + std::string(one);
    }
    throw std::invalid_argument(std::string(what) + ": got '" + name + "', wanted one of " + wanted);
}

Format format_of(const std::string& name) {
    return named<Format>("format", name, {"float32", "bf16", "int8", "int4", "int4min"});
}

std::string name_of(Format format) {
    const char* names[] = {"float32", "bf16", "int8", "int4", "int4min"};
    return names[static_cast<int>(format)];
}

void want(bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
}

// The first byte of a part, after checking that rows and columns written there stay inside it.
uint8_t* destination(const WritableBytes& buffer, int64_t offset, Format format, int64_t rows,
                     int64_t columns, Placement place) {
    const int64_t blocks = round_up(rows, kBlockRows) / kBlockRows;
    want(rows > 0 && columns > 0 && offset >= 0 && offset % kLine == 0 && place.first >= 0 && place.step >= 1,
         "pack: bad place");
    const int64_t block = matrix_bytes(format, kBlockRows, columns);
    want(
        offset + (place.first + (blocks - 1) * place.step + 1) * block <= static_cast<int64_t>(buffer.size()),
        "pack: the matrix does not fit the buffer");
    return buffer.data() + offset;
}

void pack_float_into(WritableBytes buffer, int64_t offset, const std::string& format, Table<float> values,
                     int64_t first, int64_t step) {
    const Format kind = format_of(format);
    want(!is_integer(kind), "pack_float: wanted float32 or bf16");
    const int64_t rows = static_cast<int64_t>(values.shape(0)),
                  columns = static_cast<int64_t>(values.shape(1));
    uint8_t* out = destination(buffer, offset, kind, rows, columns, {first, step});
    nb::gil_scoped_release release;
    pack_float(kind, values.data(), rows, columns, {first, step}, out);
}

void pack_integer_into(WritableBytes buffer, int64_t offset, const std::string& format, Table<int8_t> q,
                       Table<uint16_t> scales, std::optional<Table<uint16_t>> minima, int64_t first,
                       int64_t step) {
    const Format kind = format_of(format);
    want(is_integer(kind), "pack_integer: wanted int8, int4 or int4min");
    const int64_t rows = static_cast<int64_t>(q.shape(0)), columns = static_cast<int64_t>(q.shape(1));
    const size_t groups = static_cast<size_t>(round_up(columns, kGroup) / kGroup);
    want(scales.shape(0) == q.shape(0) && scales.shape(1) == groups, "pack_integer: scales do not fit q");
    want(minima.has_value() == (kind == Format::int4min),
         "pack_integer: minima go with int4min, and only there");
    want(!minima || (minima->shape(0) == q.shape(0) && minima->shape(1) == groups),
         "pack_integer: minima do not fit q");
    uint8_t* out = destination(buffer, offset, kind, rows, columns, {first, step});
    const uint16_t* low = minima ? minima->data() : nullptr;
    nb::gil_scoped_release release;
    pack_integer(kind, q.data(), scales.data(), low, rows, columns, {first, step}, out);
}

void unpack_into(Bytes buffer, int64_t offset, const std::string& format,
                 nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> out, int64_t first,
                 int64_t step) {
    const Format kind = format_of(format);
    const int64_t rows = static_cast<int64_t>(out.shape(0)), columns = static_cast<int64_t>(out.shape(1));
    const int64_t blocks = round_up(rows, kBlockRows) / kBlockRows,
                  block = matrix_bytes(kind, kBlockRows, columns);
    want(rows > 0 && columns > 0 && offset >= 0 && first >= 0 && step >= 1 &&
             offset + (first + (blocks - 1) * step + 1) * block <= static_cast<int64_t>(buffer.size()),
         "unpack: outside the buffer");
    Matrix matrix{kind, (first + blocks * step) * kBlockRows, columns, buffer.data() + offset, nullptr};
    for (int64_t row = 0; row < rows; ++row)
        unpack_row(matrix, (first + row / kBlockRows * step) * kBlockRows + row % kBlockRows,
                   out.data() + row * columns);
}

Sampling sampling_of(double temperature, double top_k, double top_p, double min_p, uint64_t seed) {
    want(temperature >= 0 && temperature <= 1e6, "temperature: wanted 0 to 1e6");
    want(top_k >= 0 && top_k <= 0x1p31 && top_k == std::floor(top_k),
         "top_k: wanted a whole number from 0 to 2^31");
    want(top_p > 0 && top_p <= 1, "top_p: wanted more than 0 and at most 1");
    want(min_p >= 0 && min_p <= 1, "min_p: wanted 0 to 1");
    return {temperature, static_cast<int64_t>(top_k), top_p, min_p, seed};
}

int draw_from(Vector<float> row, double temperature, double top_k, double top_p, double min_p, double at,
              const std::string& isa) {
    const Sampling sampling = sampling_of(temperature, top_k, top_p, min_p, 0);
    want(row.size() > 0 && row.size() < (1u << 31), "row: wanted one logit at least");
    want(at >= 0 && at < 1, "at: wanted 0 to 1, and not 1");
    const Kernels& kernels = choose_kernels(isa);
    thread_local DrawSpace space;
    space.reserve(static_cast<int64_t>(row.size()));
    kernels.enter();
    const int token = draw(kernels, row.data(), static_cast<int64_t>(row.size()), sampling, at, space);
    kernels.leave();
    return token;
}

nb::list parts_of(const Config& config) {
    nb::list parts;
    for (const Part& part : Plan(config).parts)
        parts.append(nb::make_tuple(part.name, name_of(part.format), part.rows, part.columns, part.offset,
                                    part.bytes));
    return parts;
}

// A Model that keeps the arrays it reads alive.
struct Runner {
    Bytes weights;
    Model model;

    Runner(const Config& config, Bytes buffer, const std::vector<Table<float>>& angles,
           const Options& options)
        : weights(checked(config, buffer, angles)),
          model(config, weights.data(),
                {angles[0].data(), angles[1].data(), angles.size() > 2 ? angles[2].data() : nullptr,
                 angles.size() > 2 ? angles[3].data() : nullptr},
                options) {}

    static Bytes checked(const Config& config, Bytes buffer, const std::vector<Table<float>>& angles) {
        want(static_cast<int64_t>(buffer.size()) >= Plan(config).bytes,
             "weights: the buffer is smaller than its plan");
        want(reinterpret_cast<uintptr_t>(buffer.data()) % kLine == 0,
             "weights: the buffer must begin at a multiple of 64 bytes");
        for (const Table<float>& table : angles)
            want(static_cast<int64_t>(table.shape(0)) == config.context_length &&
                     static_cast<int64_t>(table.shape(1)) == config.turning_dim() / 2,
                 "cos, sin: wanted (context_length, half of the dimensions that turn)");
        return buffer;
    }

    nb::ndarray<nb::numpy, const float, nb::ndim<2>> step(Vector<int32_t> token_ids,
                                                          Vector<int32_t> positions, Vector<int32_t> starts,
                                                          Vector<int32_t> context_lengths,
                                                          Table<int32_t> block_tables,
                                                          Vector<int32_t> logit_rows, Slots variants) {
        Batch batch = batch_of(token_ids, positions, starts, context_lengths, block_tables, logit_rows);
        name_variants(batch, variants);
        const float* logits = nullptr;
        {
            nb::gil_scoped_release release;
            logits = model.step(batch);
        }
        return nb::ndarray<nb::numpy, const float, nb::ndim<2>>(
            logits, {logit_rows.size(), static_cast<size_t>(model.config().vocab_size)}, nb::find(this));
    }

    int decode(Vector<int32_t> token_ids, Vector<int32_t> positions, Vector<int32_t> starts,
               Vector<int32_t> context_lengths, Table<int32_t> block_tables, Vector<int32_t> logit_rows,
               Vector<int32_t> stop_starts, Vector<int32_t> stop_ids, Table<double> sampling,
               Vector<uint64_t> seeds,
               nb::ndarray<int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> chosen, double seconds,
               Slots variants) {
        Batch batch = batch_of(token_ids, positions, starts, context_lengths, block_tables, logit_rows);
        name_variants(batch, variants);
        want(batch.num_tokens == batch.num_sequences && batch.num_wanted == batch.num_sequences,
             "decode: wanted one row per sequence");
        want(
            chosen.shape(0) >= 1 && chosen.shape(0) <= (1 << 20) && chosen.shape(1) == context_lengths.size(),
            "chosen: wanted (steps, sequences)");
        want(stop_starts.size() == starts.size() && stop_starts(0) == 0,
             "stop_starts: wanted as many as starts, 0 first");
        for (size_t s = 0; s < stop_starts.size(); ++s)
            want(stop_starts(s) >= (s == 0 ? 0 : stop_starts(s - 1)) &&
                     stop_starts(s) <= static_cast<int64_t>(stop_ids.size()),
                 "stop_starts: wanted ascending places in stop_ids");
        want(sampling.shape(0) == context_lengths.size() && sampling.shape(1) == 4,
             "sampling: wanted (sequences, 4)");
        want(seeds.size() == context_lengths.size(), "seeds: wanted one per sequence");
        std::vector<Sampling> each;
        for (size_t s = 0; s < seeds.size(); ++s)
            each.push_back(
                sampling_of(sampling(s, 0), sampling(s, 1), sampling(s, 2), sampling(s, 3), seeds(s)));
        const Burst burst{static_cast<int>(chosen.shape(0)), seconds, stop_starts.data(), stop_ids.data(),
                          each.data()};
        nb::gil_scoped_release release;
        return model.decode(batch, burst, chosen.data());
    }

    int add_variant(const std::vector<std::tuple<int64_t, std::string, Table<float>, Table<float>>>& pairs) {
        std::vector<ThinPair> thin;
        for (const auto& [layer, matrix, down, up] : pairs) {
            want(down.shape(0) == up.shape(1), "variant, " + matrix + ": down and up differ in their rank");
            thin.push_back({layer, matrix, down.data(), up.data(), static_cast<int64_t>(down.shape(0)),
                            static_cast<int64_t>(down.shape(1)), static_cast<int64_t>(up.shape(0))});
        }
        nb::gil_scoped_release release;
        return model.add_variant(thin);
    }

    static void name_variants(Batch& batch, const Slots& variants) {
        if (!variants) return;
        want(variants->size() == static_cast<size_t>(batch.num_tokens),
             "variants: wanted one slot per token");
        batch.variants = variants->data();
    }

    static Batch batch_of(const Vector<int32_t>& token_ids, const Vector<int32_t>& positions,
                          const Vector<int32_t>& starts, const Vector<int32_t>& context_lengths,
                          const Table<int32_t>& block_tables, const Vector<int32_t>& logit_rows) {
        want(positions.size() == token_ids.size(), "positions: wanted one per token");
        want(starts.size() == context_lengths.size() + 1, "starts: wanted one more than context_lengths");
        want(block_tables.shape(0) == context_lengths.size(), "block_tables: wanted one row per sequence");
        return {token_ids.data(),
                positions.data(),
                starts.data(),
                context_lengths.data(),
                block_tables.data(),
                logit_rows.data(),
                static_cast<int>(token_ids.size()),
                static_cast<int>(context_lengths.size()),
                static_cast<int>(block_tables.shape(1)),
                static_cast<int>(logit_rows.size())};
    }
};

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native CPU kernels of tuition.";
    m.attr("LAYOUT_VERSION") = kLayoutVersion;
    m.def("available_isas", &available_isas, "Instruction sets of this machine, best first.");
    m.def("read_bandwidth", &read_bandwidth, "num_bytes"_a, "num_threads"_a, "seconds"_a = 0.5,
          "pin"_a = false, nb::call_guard<nb::gil_scoped_release>(),
          "Bytes per second read from a buffer of num_bytes, median of passes.");
    m.def("matrix_rate", &matrix_rate, "kind"_a, "num_threads"_a, "seconds"_a = 0.5, "isa"_a = "auto",
          "pin"_a = false, nb::call_guard<nb::gil_scoped_release>(),
          "Operations per second (a multiply-add is two) of kind float32, bf16 or int8, on registers alone.");
    m.def("pack_float", &pack_float_into, "buffer"_a.noconvert(), "offset"_a, "format"_a, "values"_a,
          "first"_a = 0, "step"_a = 1,
          "Pack (rows, columns) float32 values; rows 16i.. go to block first + i * step.");
    m.def("pack_integer", &pack_integer_into, "buffer"_a.noconvert(), "offset"_a, "format"_a, "q"_a,
          "scales"_a, "minima"_a.none(), "first"_a = 0, "step"_a = 1,
          "Pack integers with their float16 scales (as uint16), see layout.hpp.");
    m.def("unpack", &unpack_into, "buffer"_a, "offset"_a, "format"_a, "out"_a.noconvert(), "first"_a = 0,
          "step"_a = 1, "Write the packed weights as float32 into out (rows, columns).");
    m.def("uniform", &uniform, "seed"_a, "position"_a, "The draw of a position, in [0, 1).");
    m.def("draw", &draw_from, "row"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "at"_a,
          "isa"_a = "auto",
          "The token under `at` after temperature and cuts, as decode draws it; -1 if the largest logit is "
          "not finite or one is no number.");

    nb::class_<Config>(m, "Config", "The shape of a model as the kernels need it.")
        .def(
            "__init__",
            [](Config* self, int64_t vocab_size, int64_t hidden_size, int64_t num_layers, int64_t num_heads,
               int64_t num_kv_heads, int64_t head_dim, int64_t mlp_size, int64_t context_length,
               bool tied_head, float norm_eps, bool qk_norm, bool qkv_bias, bool output_bias, bool mlp_bias,
               const std::vector<int>& windows, const std::string& format, const std::string& head_format) {
                new (self) Config{vocab_size,
                                  hidden_size,
                                  num_layers,
                                  num_heads,
                                  num_kv_heads,
                                  head_dim,
                                  mlp_size,
                                  context_length,
                                  tied_head,
                                  qk_norm,
                                  qkv_bias,
                                  output_bias,
                                  mlp_bias,
                                  norm_eps,
                                  windows,
                                  format_of(format),
                                  format_of(head_format)};
                self->check();
            },
            nb::kw_only(), "vocab_size"_a, "hidden_size"_a, "num_layers"_a, "num_heads"_a, "num_kv_heads"_a,
            "head_dim"_a, "mlp_size"_a, "context_length"_a, "tied_head"_a, "norm_eps"_a, "qk_norm"_a,
            "qkv_bias"_a, "output_bias"_a, "mlp_bias"_a, "windows"_a, "format"_a, "head_format"_a)
        .def(
            "set_features",
            [](Config& self, const std::string& norm, const std::string& norm_place,
               const std::string& qk_norm_span, const std::string& activation, bool gated_mlp,
               bool learned_positions, float attention_scale, float embedding_scale, float residual_scale,
               int64_t rotary_dim, const std::vector<int>& rotations) {
                self.norm = named<NormKind>("norm", norm, {"rms", "layer"});
                self.norm_place = named<NormPlace>("norm_place", norm_place, {"before", "after", "both"});
                self.qk_norm_span = named<QkNormSpan>("qk_norm_span", qk_norm_span, {"head", "all heads"});
                self.activation = named<Activation>("activation", activation, {"silu", "gelu_tanh"});
                self.gated_mlp = gated_mlp, self.learned_positions = learned_positions;
                self.attention_scale = attention_scale, self.embedding_scale = embedding_scale;
                self.residual_scale = residual_scale, self.rotary_dim = rotary_dim;
                self.rotations = rotations;
                self.check();
            },
            nb::kw_only(), "norm"_a, "norm_place"_a, "qk_norm_span"_a, "activation"_a, "gated_mlp"_a,
            "learned_positions"_a, "attention_scale"_a, "embedding_scale"_a, "residual_scale"_a,
            "rotary_dim"_a, "rotations"_a,
            "What a model has that Llama does not. attention_scale 0: that of the heads; rotary_dim 0: the "
            "whole head; rotations, per layer: 0 none, 1 by cos and sin, 2 by local_cos and local_sin.")
        .def("parts", &parts_of,
             "(name, format, rows, columns, offset, bytes) of every packed part; columns 0: a vector of "
             "floats.")
        .def_prop_ro(
            "num_bytes", [](const Config& self) { return Plan(self).bytes; }, "Size of the packed buffer.");

    nb::class_<Runner>(m, "Model", "A packed model with its cache; one call is one engine step.")
        .def(
            "__init__",
            [](Runner* self, const Config& config, Bytes weights, Table<float> cos, Table<float> sin,
               int num_blocks, int block_size, int num_threads, const std::string& isa, bool pin,
               std::optional<Table<float>> local_cos, std::optional<Table<float>> local_sin) {
                want(local_cos.has_value() == local_sin.has_value(), "local_cos and local_sin go together");
                std::vector<Table<float>> angles{cos, sin};
                if (local_cos) angles.insert(angles.end(), {*local_cos, *local_sin});
                new (self)
                    Runner(config, weights, angles, Options{num_blocks, block_size, num_threads, pin, isa});
            },
            "config"_a, "weights"_a, "cos"_a, "sin"_a, nb::kw_only(), "num_blocks"_a, "block_size"_a = 32,
            "num_threads"_a = 1, "isa"_a = "auto", "pin"_a = false, "local_cos"_a.none() = nb::none(),
            "local_sin"_a.none() = nb::none())
        .def("step", &Runner::step, "token_ids"_a, "positions"_a, "starts"_a, "context_lengths"_a,
             "block_tables"_a, "logit_rows"_a, "variants"_a.none() = nb::none(),
             "Logits (num_wanted, vocab) float32; the array is overwritten by the next call.")
        .def("decode", &Runner::decode, "token_ids"_a, "positions"_a, "starts"_a, "context_lengths"_a,
             "block_tables"_a, "logit_rows"_a, "stop_starts"_a, "stop_ids"_a, "sampling"_a.noconvert(),
             "seeds"_a.noconvert(), "chosen"_a.noconvert(), "seconds"_a, "variants"_a.none() = nb::none(),
             "Up to len(chosen) steps of one row per sequence, the token that each draws being its next "
             "input; ends with the step "
             "in which a sequence meets one of stop_ids[stop_starts[s]:stop_starts[s + 1]], or when "
             "`seconds` have passed. "
             "sampling (sequences, 4): temperature (0: the likeliest token), top_k, top_p, min_p. Fills "
             "chosen (steps, sequences) "
             "and returns the number of steps taken, 0 where nothing can be drawn from logits of the first.")
        .def(
            "add_variant", &Runner::add_variant, "pairs"_a,
            "Take pairs (layer, matrix, down (rank, inputs), up (outputs, rank)) that add up @ down to their "
            "matrices in rows of the variant; returns the slot by which `variants` (one per token, -1 for "
            "none) name it.")
        .def(
            "remove_variant", [](Runner& self, int slot) { self.model.remove_variant(slot); }, "slot"_a,
            "Forget the variant of a slot.")
        .def(
            "hurry", [](Runner& self, bool on) { self.model.hurry(on); }, "on"_a,
            "From any thread: whether decode should end with the step at hand.")
        .def_prop_ro("isa", [](const Runner& self) { return std::string(self.model.kernels().name); })
        .def_prop_ro("cache_bytes", [](const Runner& self) { return self.model.cache().bytes(); })
        .def_prop_rw(
            "profiling", [](const Runner& self) { return self.model.profiling; },
            [](Runner& self, bool on) { self.model.profiling = on; })
        .def(
            "take_profile",
            [](Runner& self) {
                const char* names[] = {"embed",  "prepare", "qkv",  "store", "attend",
                                       "output", "gate_up", "down", "head"};
                std::map<std::string, double> seconds;
                for (int i = 0; i < kNumPhases; ++i)
                    seconds[names[i]] = std::exchange(self.model.seconds[static_cast<size_t>(i)], 0.0);
                return seconds;
            },
            "Seconds by phase since the last call, while profiling is on.");
}

}  // namespace tuition

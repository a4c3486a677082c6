#include "plan.hpp"

#include <stdexcept>

namespace tuition {

void Config::check() const {
    auto refuse = [](const std::string& what, int64_t got, const std::string& wanted) {
        throw std::invalid_argument(what + ": got " + std::to_string(got) + ", wanted " + wanted);
    };
    const std::pair<const char*, int64_t> sizes[] = {
        {"vocab_size", vocab_size},        {"hidden_size", hidden_size},   {"num_layers", num_layers},
        {"num_heads", num_heads},          {"num_kv_heads", num_kv_heads}, {"mlp_size", mlp_size},
        {"context_length", context_length}};
    constexpr int64_t kMost = int64_t{1} << 28;
    for (const auto& [name, size] : sizes)
        if (size < 1 || size > kMost) refuse(name, size, "1 to 2^28");
    if (head_dim < 16 || head_dim % 16 || head_dim > 1024)
        refuse("head_dim", head_dim, "a multiple of 16 up to 1024");
    if (num_heads % num_kv_heads) refuse("num_kv_heads", num_kv_heads, "a divisor of num_heads");
    if (static_cast<int64_t>(windows.size()) != num_layers)
        refuse("windows", static_cast<int64_t>(windows.size()), "one per layer, 0 for none");
    for (int window : windows)
        if (window < 0) refuse("windows", window, "0 or more");
    if (rotary_dim != 0 && (rotary_dim < 2 || rotary_dim % 2 || rotary_dim > head_dim))
        refuse("rotary_dim", rotary_dim, "an even number up to head_dim");
    if (!rotations.empty() && static_cast<int64_t>(rotations.size()) != num_layers)
        refuse("rotations", static_cast<int64_t>(rotations.size()), "one per layer");
    for (int rotation : rotations)
        if (rotation < kUnrotated || rotation > kRotatedLocally) refuse("rotations", rotation, "0, 1 or 2");
    if (!gated_mlp && activation != Activation::gelu)
        refuse("activation", static_cast<int>(activation), "gelu where the feed-forward has no gate");
}

void Plan::add(const std::string& name, Format format, int64_t rows, int64_t columns) {
    const int64_t size = columns > 0 ? matrix_bytes(format, rows, columns) : round_up(rows, 64) * 4;
    index[name] = parts.size();
    parts.push_back({name, format, rows, columns, bytes, size});
    bytes = round_up(bytes + size, kLine);
}

void Plan::add_norm(const Config& c, const std::string& name, int64_t size) {
    add_vector(name, size);
    if (c.norm == NormKind::layer) add_vector(name + "_bias", size);
}

Plan::Plan(const Config& c) {
    c.check();
    if (!c.tied_head) add("embedding", c.head_format, c.vocab_size, c.hidden_size);
    if (c.learned_positions) add("positions", Format::float32, c.context_length, c.hidden_size);
    const bool before = c.norm_place != NormPlace::after, after = c.norm_place != NormPlace::before;
    const bool whole = c.qk_norm_span == QkNormSpan::all_heads;
    for (int64_t i = 0; i < c.num_layers; ++i) {
        const std::string at = "layers." + std::to_string(i) + ".";
        if (before) add_norm(c, at + "attention_norm", c.hidden_size);
        add(at + "qkv", c.format, c.qkv_size(), c.hidden_size);
        if (c.qkv_bias) add_vector(at + "qkv_bias", c.qkv_size());
        if (c.qk_norm) {
            add_norm(c, at + "query_norm", whole ? c.query_size() : c.head_dim);
            add_norm(c, at + "key_norm", whole ? c.kv_size() : c.head_dim);
        }
        add(at + "output", c.format, c.hidden_size, c.query_size());
        if (c.output_bias) add_vector(at + "output_bias", c.hidden_size);
        if (after) add_norm(c, at + "attention_post_norm", c.hidden_size);
        if (before) add_norm(c, at + "mlp_norm", c.hidden_size);
        add(at + c.gate_up_name(), c.format, c.gate_up_size(), c.hidden_size);
        if (c.mlp_bias) add_vector(at + c.gate_up_name() + "_bias", c.gate_up_size());
        add(at + "down", c.format, c.hidden_size, c.mlp_size);
        if (c.mlp_bias) add_vector(at + "down_bias", c.hidden_size);
        if (after) add_norm(c, at + "mlp_post_norm", c.hidden_size);
    }
    add_norm(c, "norm", c.hidden_size);
    add("head", c.head_format, c.vocab_size, c.hidden_size);
}

}  // namespace tuition

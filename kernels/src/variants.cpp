#include "variants.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace tuition {
namespace {

constexpr int64_t kMostRank = 4096;
constexpr float kIntegerMost = 127.0f;

[[noreturn]] void refuse(const std::string& what, const std::string& got, const std::string& wanted) {
    throw std::invalid_argument("variant, " + what + ": got " + got + ", wanted " + wanted);
}

// A block as LowRank says; rows and columns behind the end are zero.
void pack_block(Format format, const float* values, int64_t rows, int64_t columns, int64_t stride,
                uint8_t* out) {
    for (int64_t row = 0; row < std::min<int64_t>(rows, kBlockRows); ++row, values += stride) {
        float top = 0;
        for (int64_t column = 0; column < columns; ++column) top = std::max(top, std::fabs(values[column]));
        if (format == Format::int8) reinterpret_cast<float*>(out)[row] = top / kIntegerMost;
        for (int64_t column = 0; column < columns; ++column) {
            const int64_t at = column * kBlockRows + row;
            if (format == Format::float32)
                reinterpret_cast<float*>(out)[at] = values[column];
            else if (format == Format::bf16)
                reinterpret_cast<uint16_t*>(out)[column / 2 * 32 + row * 2 + column % 2] =
                    to_bf16(values[column]);
            else if (top > 0)
                reinterpret_cast<int8_t*>(out + kLine)[at] =
                    static_cast<int8_t>(std::nearbyint(values[column] / top * kIntegerMost));
        }
    }
}

}  // namespace

Variants::Variants(const Config& config)
    : config_(config),
      format_(is_integer(config.format) ? Format::int8 : config.format),
      table_(static_cast<size_t>(config.num_layers * kNumProducts)) {}

Variants::Home Variants::home_of(const std::string& matrix) const {
    const Config& c = config_;
    if (matrix == "query") return {kQkvProduct, 0, c.hidden_size, c.query_size()};
    if (matrix == "key") return {kQkvProduct, 1, c.hidden_size, c.kv_size()};
    if (matrix == "value") return {kQkvProduct, 2, c.hidden_size, c.kv_size()};
    if (matrix == "output") return {kOutputProduct, 0, c.query_size(), c.hidden_size};
    if (matrix == "gate" && c.gated_mlp) return {kGateUpProduct, 0, c.hidden_size, c.mlp_size};
    if (matrix == "up") return {kGateUpProduct, c.gated_mlp ? 1 : 0, c.hidden_size, c.mlp_size};
    if (matrix == "down") return {kDownProduct, 0, c.mlp_size, c.hidden_size};
    refuse("matrix", "'" + matrix + "'", "query, key, value, output, gate, up or down");
}

void Variants::check(const std::vector<ThinPair>& pairs) const {
    if (pairs.empty()) refuse("pairs", "none", "at least one");
    std::vector<std::pair<int64_t, std::string>> seen;
    for (const ThinPair& pair : pairs) {
        const Home home = home_of(pair.matrix);
        if (pair.layer < 0 || pair.layer >= config_.num_layers)
            refuse("layer", std::to_string(pair.layer), "0 to " + std::to_string(config_.num_layers - 1));
        if (pair.rank < 1 || pair.rank > kMostRank)
            refuse("rank", std::to_string(pair.rank), "1 to " + std::to_string(kMostRank));
        if (pair.inputs != home.inputs || pair.outputs != home.outputs)
            refuse(pair.matrix,
                   std::to_string(pair.inputs) + " inputs and " + std::to_string(pair.outputs) + " outputs",
                   std::to_string(home.inputs) + " and " + std::to_string(home.outputs));
        seen.emplace_back(pair.layer, pair.matrix);
    }
    std::sort(seen.begin(), seen.end());
    const auto twice = std::adjacent_find(seen.begin(), seen.end());
    if (twice != seen.end()) refuse(twice->second, "two pairs of one layer", "one");
}

int Variants::add(const std::vector<ThinPair>& pairs) {
    check(pairs);
    int64_t total = 0;
    for (const ThinPair& pair : pairs)
        total += round_up(pair.rank, 16) / 16 * LowRank::block_bytes(format_, round_up(pair.inputs, 16)) +
                 round_up(pair.outputs, 16) / 16 * LowRank::block_bytes(format_, round_up(pair.rank, 4));
    Buffer memory(round_up(total, kLine));
    const auto free =
        std::find_if(memories_.begin(), memories_.end(), [](const Buffer& one) { return one.bytes() == 0; });
    const auto slot = static_cast<size_t>(free - memories_.begin());
    if (slot == memories_.size()) {
        memories_.emplace_back();
        for (std::vector<LowRank>& row : table_) row.emplace_back();
    }
    uint8_t* at = memory.data();
    for (const ThinPair& pair : pairs) {
        const Home home = home_of(pair.matrix);
        const int64_t rank = round_up(pair.rank, 4), inputs = round_up(pair.inputs, 16);
        LowRank::Part part{at, nullptr, static_cast<int>(rank), 0};
        for (int64_t block = 0; block < pair.rank; block += 16, at += LowRank::block_bytes(format_, inputs))
            pack_block(format_, pair.down + block * pair.inputs, pair.rank - block, pair.inputs, pair.inputs,
                       at);
        part.up = at;
        for (int64_t block = 0; block < pair.outputs;
             block += kBlockRows, at += LowRank::block_bytes(format_, rank))
            pack_block(format_, pair.up + block * pair.rank, pair.outputs - block, pair.rank, pair.rank, at);
        LowRank& change = table_[static_cast<size_t>(pair.layer * kNumProducts + home.kind)][slot];
        change.format = format_, change.inputs = static_cast<int>(inputs);
        change.parts[home.part] = part;
    }
    for (std::vector<LowRank>& row : table_) {  // where the values of each part begin
        int64_t ranks = 0;
        for (LowRank::Part& part : row[slot].parts) {
            part.at = static_cast<int>(ranks);
            ranks += round_up(part.rank, 16);
        }
        most_ranks_ = std::max(most_ranks_, ranks);
    }
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
        LowRank& qkv = table_[static_cast<size_t>(layer * kNumProducts + kQkvProduct)][slot];
        qkv.first_blocks[1] = config_.query_size() / kBlockRows;
        qkv.first_blocks[2] = qkv.first_blocks[1] + config_.kv_size() / kBlockRows;
    }
    memories_[slot] = std::move(memory);
    ++count_;
    return static_cast<int>(slot);
}

void Variants::remove(int slot) {
    if (!has(slot)) refuse("slot", std::to_string(slot), "one that is in use");
    for (std::vector<LowRank>& row : table_) row[static_cast<size_t>(slot)] = LowRank{};
    memories_[static_cast<size_t>(slot)] = Buffer();
    --count_;
}

}  // namespace tuition

#include "variants.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

namespace tuition {
namespace {

constexpr int64_t kMostRank = 4096;
constexpr float kIntegerMost = 127.0f;

[[noreturn]] void refuse(const std::string& what, const std::string& got, const std::string& wanted) {
    throw std::invalid_argument("variant, " + what + ": got " + got + ", wanted " + wanted);
}

float largest(const float* values, int64_t size) {
    float top = 0;
    for (int64_t i = 0; values != nullptr && i < size; ++i) top = std::max(top, std::fabs(values[i]));
    return top;
}

// Sixteen rows of `columns` values, null for zeros, in lines `wide` apart. Integers: a row's largest value
// becomes 127 by its top.
void pack_block(Format format, const float* const (&rows)[kBlockRows], const float (&tops)[kBlockRows],
                int64_t columns, int64_t wide, uint8_t* lines) {
    const int per_line = LowRank::line_columns(format);
    for (int64_t row = 0; row < kBlockRows; ++row) {
        for (int64_t column = 0; rows[row] != nullptr && column < columns; ++column) {
            uint8_t* const line = lines + column / per_line * wide * kLine;
            const int64_t at = row * per_line + column % per_line;
            const float value = rows[row][column];
            if (format == Format::float32)
                reinterpret_cast<float*>(line)[at] = value;
            else if (format == Format::bf16)
                reinterpret_cast<uint16_t*>(line)[at] = to_bf16(value);
            else if (tops[row] > 0)
                reinterpret_cast<int8_t*>(line)[at] =
                    static_cast<int8_t>(std::nearbyint(value / tops[row] * kIntegerMost));
        }
    }
}

// The pairs of one product, by part; null: none.
using Pairs = std::array<const ThinPair*, 3>;

// All but where the weights lie.
LowRank shape_of(const Config& config, Format format, ProductKind kind, const Pairs& pairs) {
    LowRank change;
    change.format = format;
    for (size_t part = 0; part < pairs.size(); ++part) {
        if (pairs[part] == nullptr) continue;
        change.inputs = static_cast<int>(round_up(pairs[part]->inputs, format == Format::int8 ? kGroup : 16));
        change.parts[part].rank = static_cast<int>(round_up(pairs[part]->rank, 4));
        change.parts[part].at = change.ranks;
        change.parts[part].step = LowRank::block_bytes(format, change.parts[part].rank);
        change.ranks += change.parts[part].rank;
    }
    change.ranks = static_cast<int>(round_up(change.ranks, kBlockRows));
    if (kind == kQkvProduct) {
        change.first_blocks[1] = config.query_size() / kBlockRows;
        change.first_blocks[2] = change.first_blocks[1] + config.kv_size() / kBlockRows;
    }
    if (kind == kGateUpProduct)
        change.parts[0].step = change.parts[1].step = change.parts[0].step + change.parts[1].step;
    return change;
}

int64_t blocks_of(const ThinPair& pair) { return round_up(pair.outputs, kBlockRows) / kBlockRows; }

// Of the scales of the blocks of `up`, before these.
int64_t scale_bytes(Format format, const Pairs& pairs) {
    int64_t blocks = 0;
    for (const ThinPair* pair : pairs) blocks += pair == nullptr ? 0 : blocks_of(*pair);
    return format == Format::int8 ? round_up(blocks * 4, kLine) : 0;
}

int64_t bytes_of(const LowRank& change, const Pairs& pairs) {
    int64_t total = change.down_bytes() + scale_bytes(change.format, pairs);
    for (size_t part = 0; part < pairs.size(); ++part)
        if (pairs[part] != nullptr)
            total += blocks_of(*pairs[part]) * LowRank::block_bytes(change.format, change.parts[part].rank);
    return total;
}

void pack_down(LowRank& change, const Pairs& pairs, uint8_t* at) {
    change.down = at;
    std::vector<const float*> ranks(static_cast<size_t>(change.ranks));
    int64_t columns = 0;
    for (size_t part = 0; part < pairs.size(); ++part)
        for (int64_t i = 0; pairs[part] != nullptr && i < pairs[part]->rank; ++i) {
            columns = pairs[part]->inputs;
            ranks[static_cast<size_t>(change.parts[part].at + i)] = pairs[part]->down + i * columns;
        }
    const int64_t blocks = change.ranks / kBlockRows;
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t place = block % LowRank::kPanelBlocks, first = block - place,
                      wide = std::min<int64_t>(LowRank::kPanelBlocks, blocks - first);
        uint8_t* const panel = at + first * change.down_block_bytes();
        const float* rows[kBlockRows];
        float tops[kBlockRows];
        for (int64_t i = 0; i < kBlockRows; ++i) {
            rows[i] = ranks[static_cast<size_t>(block * kBlockRows + i)];
            tops[i] = largest(rows[i], columns);
            if (change.format == Format::int8)
                reinterpret_cast<float*>(panel + place * kLine)[i] = tops[i] / kIntegerMost;
        }
        uint8_t* const lines = panel + (change.format == Format::int8 ? wide * kLine : 0);
        pack_block(change.format, rows, tops, columns, wide, lines + place * kLine);
    }
}

// The blocks of the parts one behind the other, or, where parts alternate, in turns.
void pack_up(LowRank& change, const Pairs& pairs, uint8_t* at) {
    float* scales = reinterpret_cast<float*>(at);
    at += scale_bytes(change.format, pairs);
    for (size_t part = 0; part < pairs.size(); ++part) {
        if (pairs[part] == nullptr) continue;
        const ThinPair& pair = *pairs[part];
        LowRank::Part& where = change.parts[part];
        const int64_t own = LowRank::block_bytes(change.format, where.rank), blocks = blocks_of(pair);
        where.up = at, where.scales = scales;
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t first = block * kBlockRows,
                          count = std::min<int64_t>(kBlockRows, pair.outputs - first);
            const float top = largest(pair.up + first * pair.rank, count * pair.rank);
            const float* rows[kBlockRows] = {};
            float tops[kBlockRows];
            std::fill_n(tops, kBlockRows, top);
            for (int64_t i = 0; i < count; ++i) rows[i] = pair.up + (first + i) * pair.rank;
            if (change.format == Format::int8) *scales++ = top / kIntegerMost;
            pack_block(change.format, rows, tops, pair.rank, 1, at + block * where.step);
        }
        at += where.step == own ? blocks * own : own;
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
    std::vector<Pairs> found(table_.size(), Pairs{});
    for (const ThinPair& pair : pairs) {
        const Home home = home_of(pair.matrix);
        found[static_cast<size_t>(pair.layer * kNumProducts + home.kind)][static_cast<size_t>(home.part)] =
            &pair;
    }
    std::vector<LowRank> changes;
    int64_t total = 0;
    for (size_t i = 0; i < found.size(); ++i) {
        changes.push_back(shape_of(config_, format_, static_cast<ProductKind>(i % kNumProducts), found[i]));
        total += bytes_of(changes.back(), found[i]);
    }
    Buffer memory(round_up(total, kLine));
    const auto free =
        std::find_if(memories_.begin(), memories_.end(), [](const Buffer& one) { return one.bytes() == 0; });
    const auto slot = static_cast<size_t>(free - memories_.begin());
    if (slot == memories_.size()) {
        memories_.emplace_back();
        for (std::vector<LowRank>& row : table_) row.emplace_back();
    }
    uint8_t* at = memory.data();
    for (size_t i = 0; i < found.size(); ++i) {
        LowRank& change = changes[i];
        const int64_t bytes = bytes_of(change, found[i]);
        if (bytes > 0) {
            pack_down(change, found[i], at);
            pack_up(change, found[i], at + change.down_bytes());
        }
        at += bytes;
        most_ranks_ = std::max<int64_t>(most_ranks_, change.ranks);
        table_[i][slot] = change;
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

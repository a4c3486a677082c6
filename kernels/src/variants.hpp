// Variants of a model's weights (LoRA, arXiv:2106.09685): pairs of thin matrices that add up (down x) to some
// products of the rows that name a variant.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "plan.hpp"

namespace tuition {

enum ProductKind { kQkvProduct, kOutputProduct, kGateUpProduct, kDownProduct, kNumProducts };

// One change of a matrix as it comes: weight + up down, row-major.
struct ThinPair {
    int64_t layer = 0;
    std::string matrix;           // query, key, value, output, gate, up or down
    const float* down = nullptr;  // [rank][inputs]
    const float* up = nullptr;    // [outputs][rank]
    int64_t rank = 0, inputs = 0, outputs = 0;
};

// All variants of one model, packed. A slot is a variant's number; those of removed ones are used again.
class Variants {
  public:
    explicit Variants(const Config& config);

    // Returns the slot. Throws std::invalid_argument if a pair does not fit the model.
    int add(const std::vector<ThinPair>& pairs);
    void remove(int slot);
    bool has(int slot) const {
        return slot >= 0 && slot < static_cast<int>(memories_.size()) &&
               memories_[static_cast<size_t>(slot)].bytes() > 0;
    }
    bool empty() const { return count_ == 0; }
    // What each slot adds to a product of a layer: [slot].
    const LowRank* of(int64_t layer, ProductKind kind) const {
        return table_[static_cast<size_t>(layer * kNumProducts + kind)].data();
    }
    // Of the widest product of any variant.
    int64_t most_ranks() const { return most_ranks_; }

  private:
    struct Home {  // of a matrix: its product, and its part of that
        ProductKind kind;
        int part;
        int64_t inputs, outputs;
    };
    Home home_of(const std::string& matrix) const;
    void check(const std::vector<ThinPair>& pairs) const;

    Config config_;
    Format format_;
    std::vector<Buffer> memories_;             // [slot]
    std::vector<std::vector<LowRank>> table_;  // [layer * kNumProducts + kind][slot]
    int64_t most_ranks_ = 0;
    int count_ = 0;
};

}  // namespace tuition

// The part of Model that adds what variants add to the products of their rows.
//
// Whoever prepares a row for a product makes `down x` of it, in float32 whatever the product's format;
// whoever computes outputs of the product then makes `up (down x)` of these outputs first, and the product
// adds it before its ending. So a variant needs no barrier of its own, whether threads share rows or columns.
#include <algorithm>

#include "model.hpp"

namespace tuition {
namespace {

constexpr int kHeldRows = 4;  // that share the weights of a variant at a time

}  // namespace

int Model::add_variant(const std::vector<ThinPair>& pairs) {
    const int slot = changes_.add(pairs);
    reserve_changes();
    return slot;
}

// Room for what the variants add to as many rows as the other buffers hold.
void Model::reserve_changes() {
    if (changes_.empty()) return;
    rank_stride_ = changes_.most_ranks();
    const int64_t ranks = int64_t{capacity_} * rank_stride_ * 4,
                  added = int64_t{capacity_} * added_stride_ * 4;
    if (ranks > ranks_.bytes()) ranks_ = Buffer(ranks);
    if (added > added_.bytes()) added_ = Buffer(added);
    for (Worker& worker : workers_) {
        if (rank_stride_ * 4 > worker.ranks.bytes()) worker.ranks = Buffer(rank_stride_ * 4);
        if (worker.held.bytes() == 0) worker.held = Buffer(kHeldRows * held_stride_ * 4);
    }
}

// Before the threads begin: which variant each row has.
void Model::name_variants(const Batch& batch) {
    variants_ = batch.variants;
    if (variants_ == nullptr) return;
    wanted_variants_.clear();
    for (int i = 0; i < batch.num_wanted; ++i) wanted_variants_.push_back(variants_[batch.logit_rows[i]]);
}

// What the row's variant adds to a product; null: nothing.
const LowRank* Model::change_of(const Linear& linear, int row) const {
    if (variants_ == nullptr || linear.layer < 0 || variants_[row] < 0) return nullptr;
    const LowRank* change = changes_.of(linear.layer, linear.kind) + variants_[row];
    return change->inputs > 0 ? change : nullptr;
}

// Keep a prepared row until rows of its variant can share the weights. A step of one row is held, and shrunk,
// by every thread for itself.
void Model::hold(const Linear& next, const float* x, int row, int num_rows, int thread) {
    if (variants_ == nullptr) return;
    Worker& me = workers_[static_cast<size_t>(thread)];
    const LowRank* change = change_of(next, row);
    const bool joins = me.num_held > 0 && change != nullptr && me.num_held < kHeldRows &&
                       variants_[row] == variants_[me.first_held];
    if (!joins) {
        shrink(next, num_rows, thread);
        me.first_held = row;
    }
    if (change == nullptr) return;
    std::copy(x, x + change->inputs, me.held.as<float>() + me.num_held * held_stride_);
    ++me.num_held;
}

// The rows that are held: neighbours of one variant.
void Model::shrink(const Linear& next, int num_rows, int thread) {
    Worker& me = workers_[static_cast<size_t>(thread)];
    if (me.num_held == 0) return;
    float* ranks = num_rows == 1 ? me.ranks.as<float>() : ranks_.as<float>() + me.first_held * rank_stride_;
    kernels_.shrink(*change_of(next, me.first_held), me.held.as<float>(), held_stride_, me.num_held, ranks,
                    rank_stride_);
    me.num_held = 0;
}

// Fill in what is added to the blocks of `product`, whose first row is row `first` of `num_rows` in the step.
void Model::expand(const Linear& linear, Product& product, int first, int num_rows, int thread) {
    if (variants_ == nullptr || linear.layer < 0) return;
    const float* ranks = num_rows == 1 ? workers_[static_cast<size_t>(thread)].ranks.as<float>()
                                       : ranks_.as<float>() + first * rank_stride_;
    float* added = added_.as<float>() + first * added_stride_;
    const int32_t* variants = variants_ + first;
    for (int row = 0, end; row < product.num_rows; row = end) {
        for (end = row + 1; end < product.num_rows && variants[end] == variants[row];) ++end;
        if (variants[row] < 0) continue;
        product.variants = variants, product.added = added, product.added_stride = added_stride_;
        kernels_.expand({changes_.of(linear.layer, linear.kind) + variants[row], ranks + row * rank_stride_,
                         rank_stride_, end - row, product.first, product.last, is_gate(product.ending),
                         added + row * added_stride_, added_stride_});
    }
}

}  // namespace tuition

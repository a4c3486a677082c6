// The part of Model that adds what variants add to the products of their rows.
//
// Whoever prepares rows for a product makes `down x` of them; whoever computes outputs of the product then
// makes `up (down x)` of these outputs first, and the product adds it before its ending. So a variant needs
// no barrier of its own, whether threads share rows or columns. Each thread tells the kernels what it reads
// next: the weights of many variants come from memory at every step.
#include <algorithm>

#include "model.hpp"

namespace tuition {
namespace {

constexpr int64_t kAskedAtOnce = 4096;  // bytes, of what is read behind a barrier

// The first row behind `row` of another variant, at most `last`.
int end_of_run(const int32_t* variants, int row, int last) {
    const int32_t variant = variants[row];
    while (row < last && variants[row] == variant) ++row;
    return row;
}

}  // namespace

int Model::add_variant(const std::vector<ThinPair>& pairs) {
    const int slot = changes_.add(pairs);
    reserve_changes();
    return slot;
}

// Room for what the variants add to as many rows as the other buffers hold.
void Model::reserve_changes() {
    if (changes_.empty()) return;
    rank_stride_ = changes_.most_ranks() + kBlockRows;  // see Shrinking
    const int64_t ranks = int64_t{capacity_} * rank_stride_ * 4,
                  added = int64_t{capacity_} * added_stride_ * 4;
    if (ranks > ranks_.bytes()) ranks_ = Buffer(ranks);
    if (added > added_.bytes()) added_ = Buffer(added);
    for (Worker& worker : workers_)
        if (rank_stride_ * 4 > worker.ranks.bytes()) worker.ranks = Buffer(rank_stride_ * 4);
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

// What a thread reads of the variants of rows first <= row < last, `up` or `down`, before all else; null:
// nothing.
const uint8_t* Model::first_down(const Linear& linear, int first, int last) const {
    const LowRank* change = first < last ? change_of(linear, first) : nullptr;
    return change == nullptr ? nullptr : change->down;
}

const uint8_t* Model::first_up(const Linear& linear, int first, int last, const Share& share) const {
    const LowRank* change = first < last ? change_of(linear, first) : nullptr;
    return change == nullptr ? nullptr : change->up_of(share.first, share.interleaved);
}

// `down x` of the rows that this thread has prepared for `linear`.
void Model::shrink(const Linear& linear, const Rows& left, int num_rows, int thread) {
    if (variants_ == nullptr || linear.layer < 0) return;
    const auto [first, last] = rows_of(num_rows, thread);
    const Share share = share_of(linear, num_rows, thread);
    for (int row = first, end; row < last; row = end) {
        end = end_of_run(variants_, row, last);
        const LowRank* change = change_of(linear, row);
        if (change == nullptr) continue;
        const uint8_t* next =
            end < last ? first_down(linear, end, last) : first_up(linear, share.first_row, num_rows, share);
        kernels_.shrink({change, &left, row, end, ranks_of(num_rows, thread), rank_stride_, next});
    }
}

// Where `down x` of the step's rows lies. A step of one row is prepared, and shrunk, by every thread for
// itself.
float* Model::ranks_of(int num_rows, int thread) {
    return num_rows == 1 ? workers_[static_cast<size_t>(thread)].ranks.as<float>() : ranks_.as<float>();
}

// Fill in what is added to the blocks of `product`, whose first row is row `first` of `num_rows` in the step.
void Model::expand(const Linear& linear, Product& product, int first, int num_rows, int thread) {
    if (variants_ == nullptr || linear.layer < 0) return;
    const float* ranks = ranks_of(num_rows, thread) + first * rank_stride_;
    float* added = added_.as<float>() + first * added_stride_;
    const int32_t* variants = variants_ + first;
    const Share share{product.first, product.last, first, is_gate(product.ending)};
    for (int row = 0, end; row < product.num_rows; row = end) {
        end = end_of_run(variants, row, product.num_rows);
        if (variants[row] < 0) continue;
        product.variants = variants, product.added = added, product.added_stride = added_stride_;
        kernels_.expand({changes_.of(linear.layer, linear.kind) + variants[row], ranks + row * rank_stride_,
                         rank_stride_, end - row, product.first, product.last, share.interleaved,
                         added + row * added_stride_, added_stride_,
                         first_up(linear, first + end, first + product.num_rows, share)});
    }
}

// Behind a product: ask for what this thread reads first of the variants behind the barrier.
void Model::ask_for_next(const Linear& linear, int num_rows, int thread) const {
    if (variants_ == nullptr || linear.layer < 0) return;
    const auto layer = static_cast<size_t>(linear.layer) + (linear.kind == kDownProduct ? 1 : 0);
    if (layer == layers_.size()) return;
    const Layer& in = layers_[layer];
    const Linear* const following[] = {&in.output, &in.gate_up, &in.down, &in.qkv};
    const auto [first, last] = rows_of(num_rows, thread);
    const uint8_t* at = first_down(*following[linear.kind], first, last);
    if (at == nullptr) return;
    for (int64_t i = 0; i < kAskedAtOnce; i += kLine) __builtin_prefetch(at + i);
}

}  // namespace tuition

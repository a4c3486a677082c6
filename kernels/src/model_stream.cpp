// The part of Model that begins the residual stream, norms it for the next product, and adds results to it.
#include <algorithm>
#include <cstring>

#include "model.hpp"

namespace tuition {

// Rows that one thread has for itself, also where there is a single one.
std::pair<int, int> Model::single_owner_rows(int num_rows, int thread) const {
    return num_rows == 1 ? std::pair(0, thread == 0 ? 1 : 0) : rows_of(num_rows, thread);
}

void Model::embed(const Batch& batch, int thread) {
    float* position = workers_[static_cast<size_t>(thread)].normed.as<float>();
    const auto [first, last] = single_owner_rows(batch.num_tokens, thread);
    for (int row = first; row < last; ++row) {
        float* x = x_.as<float>() + row * hidden_stride_;
        std::memset(x, 0, static_cast<size_t>(hidden_stride_) * 4);
        unpack_row(embedding_, batch.token_ids[row], x);
        if (config_.learned_positions) {
            unpack_row(positions_, batch.positions[row], position);
            for (int64_t i = 0; i < config_.hidden_size; ++i) x[i] += position[i];
        }
        if (config_.embedding_scale != 1.0f)
            for (int64_t i = 0; i < config_.hidden_size; ++i) x[i] *= config_.embedding_scale;
    }
}

void Model::normalize(const Norm& norm, const float* x, int64_t size, float* out) const {
    if (norm.bias != nullptr)
        return kernels_.layer_norm(x, norm.weight, norm.bias, static_cast<int>(size), config_.norm_eps, out);
    kernels_.norm(x, norm.weight, static_cast<int>(size), config_.norm_eps, out);
}

// Rows as the left operand of `next`, normed where there is a norm before it.
Rows& Model::norm_rows(const Norm& norm, const Linear& next, int num_rows, int thread) {
    Worker& me = workers_[static_cast<size_t>(thread)];
    Rows& rows = num_rows == 1 ? me.hidden : hidden_rows_;
    const int padded = static_cast<int>(round_up(config_.hidden_size, 16));
    const auto [first, last] = rows_of(num_rows, thread);
    for (int row = first; row < last; ++row) {
        const float* source = x_.as<float>() + row * hidden_stride_;
        if (norm.weight != nullptr) {
            normalize(norm, source, config_.hidden_size, me.normed.as<float>());
            source = me.normed.as<float>();
        }
        kernels_.prepare(source, padded, next.weight.format, rows, row, num_rows == 1);
    }
    shrink(next, rows, num_rows, thread);
    if (num_rows > 1) settle(num_rows);
    return rows;
}

// Norms of queries and of keys over all heads of a row.
void Model::norm_heads(const Layer& layer, int num_rows, int thread) {
    const auto [first, last] = single_owner_rows(num_rows, thread);
    for (int row = first; row < last; ++row) {
        float *query = qkv_.as<float>() + row * qkv_stride_, *key = query + config_.query_size();
        normalize(layer.query_norm, query, config_.query_size(), query);
        normalize(layer.key_norm, key, config_.kv_size(), key);
    }
}

// Add the result of a block to the residual stream; where it is normed first, it has to be whole before.
void Model::join(const Linear& linear, const Rows& left, int num_rows, const Norm& post, int thread) {
    if (post.weight == nullptr) {
        multiply(linear, left, num_rows, x_.as<float>(), hidden_stride_, Ending::add, thread);
        return settle(num_rows);
    }
    multiply(linear, left, num_rows, result_.as<float>(), hidden_stride_, Ending::store, thread);
    settle(num_rows);
    float* normed = workers_[static_cast<size_t>(thread)].normed.as<float>();
    // The rows that this thread will prepare next, so that nobody has to wait; a single row is prepared by
    // all.
    const auto [first, last] = single_owner_rows(num_rows, thread);
    for (int row = first; row < last; ++row) {
        normalize(post, result_.as<float>() + row * hidden_stride_, config_.hidden_size, normed);
        float* x = x_.as<float>() + row * hidden_stride_;
        for (int64_t i = 0; i < config_.hidden_size; ++i) x[i] += config_.residual_scale * normed[i];
    }
    if (num_rows == 1) team_->wait();
}

}  // namespace tuition

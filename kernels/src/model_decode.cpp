// The part of Model that takes several decode steps in one call: each sequence's likeliest token is its next input.
#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "model.hpp"

namespace tuition {
namespace {

// The place of the largest value, the first of equals; -1 if a value is not finite.
int likeliest(const float* row, int64_t size) {
    constexpr int64_t kLanes = 16;
    float largest[kLanes], poison[kLanes] = {};
    std::fill_n(largest, kLanes, row[0]);
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const float value = row[i + lane];
            largest[lane] = value > largest[lane] ? value : largest[lane];
            poison[lane] += value * 0.0f;   // not a number for what is none and for infinities
        }
    for (; i < size; ++i) largest[0] = std::max(largest[0], row[i]), poison[0] += row[i] * 0.0f;
    for (float lane : poison)
        if (lane != 0.0f) return -1;
    return static_cast<int>(std::find(row, row + size, *std::max_element(largest, largest + kLanes)) - row);
}

bool holds(const int32_t* ids, int first, int last, int32_t id) { return std::find(ids + first, ids + last, id) != ids + last; }

}  // namespace

int Model::decode(const Batch& batch, const Burst& burst, int32_t* chosen) {
    const int n = batch.num_sequences;
    check(batch);
    if (batch.num_tokens != n || batch.num_wanted != n || burst.num_steps < 1)
        throw std::invalid_argument("decode: wanted one row of each sequence, and one step or more");
    std::vector<int32_t> ids(batch.token_ids, batch.token_ids + n), positions(batch.positions, batch.positions + n);
    Batch now = batch;
    now.token_ids = ids.data(), now.positions = now.context_lengths = positions.data();
    for (int32_t& position : positions) position += burst.num_steps - 1;
    check(now);   // where there is a place for the last step, there is one for all
    for (int32_t& position : positions) position -= burst.num_steps - 1;
    reserve(n);
    reserve_logits(n);
    plan_items(now);

    const auto start = std::chrono::steady_clock::now();
    int done = 0;
    bool more = true;
    auto accept = [&] {   // by one thread, while the others wait
        int32_t* row = chosen + int64_t{done} * n;
        for (int s = 0; s < n; ++s) {
            row[s] = likeliest(logits_.as<float>() + int64_t{s} * config_.vocab_size, config_.vocab_size);
            if (row[s] < 0) {   // this step does not count: the caller takes it again and looks
                more = false;
                return;
            }
        }
        ++done;
        more = done < burst.num_steps && !hurry_.load(std::memory_order_relaxed) &&
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < burst.seconds;
        for (int s = 0; s < n; ++s) {
            if (holds(burst.stop_ids, burst.stop_starts[s], burst.stop_starts[s + 1], row[s])) more = false;
            ids[static_cast<size_t>(s)] = row[s];
            ++positions[static_cast<size_t>(s)];
        }
        if (more) plan_items(now);
    };
    team_->run([&](int thread) {
        kernels_.enter();
        while (true) {
            work(now, thread);
            team_->wait();
            if (thread == 0) accept();
            team_->wait();
            if (!more) break;
        }
        kernels_.leave();
    });
    return done;
}

}  // namespace tuition

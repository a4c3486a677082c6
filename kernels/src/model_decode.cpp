// The part of Model that takes several decode steps in one call: the token that each sequence draws is its
// next input.
#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "model.hpp"

namespace tuition {
namespace {

bool holds(const int32_t* ids, int first, int last, int32_t id) {
    return std::find(ids + first, ids + last, id) != ids + last;
}

}  // namespace

int Model::decode(const Batch& batch, const Burst& burst, int32_t* chosen) {
    const int n = batch.num_sequences;
    check(batch);
    if (batch.num_tokens != n || batch.num_wanted != n || burst.num_steps < 1)
        throw std::invalid_argument("decode: wanted one row of each sequence, and one step or more");
    std::vector<int32_t> ids(batch.token_ids, batch.token_ids + n),
        positions(batch.positions, batch.positions + n);
    Batch now = batch;
    now.token_ids = ids.data(), now.positions = now.context_lengths = positions.data();
    for (int32_t& position : positions) position += burst.num_steps - 1;
    check(now);  // where there is a place for the last step, there is one for all
    plan_items(
        now);  // makes room for the longest plan: nothing may be allocated, and so fail, among the threads
    for (int32_t& position : positions) position -= burst.num_steps - 1;
    reserve(n);
    reserve_logits(n);
    plan_items(now);
    name_variants(now);
    const int drawers = std::min(n, team_->size());
    draw_spaces_.resize(static_cast<size_t>(team_->size()));
    for (int thread = 0; thread < drawers; ++thread)
        draw_spaces_[static_cast<size_t>(thread)].reserve(config_.vocab_size);

    const auto start = std::chrono::steady_clock::now();
    int done = 0;
    bool more = true;
    auto choose = [&](int thread) {
        for (int s = int64_t{n} * thread / drawers, last = int64_t{n} * (thread + 1) / drawers; s < last;
             ++s) {
            const Sampling& sampling = burst.sampling[s];
            const double at = sampling.temperature == 0
                                  ? 0.0
                                  : uniform(sampling.seed, int64_t{positions[static_cast<size_t>(s)]} + 1);
            chosen[int64_t{done} * n + s] =
                draw(kernels_, logits_.as<float>() + int64_t{s} * config_.vocab_size, config_.vocab_size,
                     sampling, at, draw_spaces_[static_cast<size_t>(thread)]);
        }
    };
    auto accept = [&] {  // by one thread, while the others wait
        const int32_t* row = chosen + int64_t{done} * n;
        if (std::find(row, row + n, -1) !=
            row + n) {  // this step does not count: the caller takes it again and looks
            more = false;
            return;
        }
        ++done;
        more =
            done < burst.num_steps && !hurry_.load(std::memory_order_relaxed) &&
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
            if (thread < drawers) choose(thread);
            if (n > 1) team_->wait();
            if (thread == 0) accept();
            team_->wait();
            if (!more) break;
        }
        kernels_.leave();
    });
    return done;
}

}  // namespace tuition

// The choice of a token from a row of logits: what tuition.engine.sampler.draw means, written for speed.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace tuition {

// Temperature, then top-k, top-p, min-p, then the draw; field for field of tuition.engine.request.Sampling.
struct Sampling {
    double temperature = 0;  // 0: the likeliest token, and nothing else counts
    int64_t top_k = 0;       // 0: all
    double top_p = 1, min_p = 0;
    uint64_t seed = 0;
};

// The draw of a position, in [0, 1): bit for bit tuition.engine.sampler.uniform.
double uniform(uint64_t seed, int64_t position);

// What a thread needs to draw; `reserve` takes the memory, so that `draw` takes none. Throws std::bad_alloc.
struct DrawSpace {
    std::vector<float> tops, sums, weights, spare;
    std::vector<int32_t> ids;
    std::vector<double> bins;

    void reserve(int64_t size);
};

// The token under `at` in [0, 1), ties and borders as in sampler.draw; -1 if the largest logit is not finite
// or one is no number. Between kernels.enter() and leave(); `space` holds `size`.
int draw(const Kernels& kernels, const float* row, int64_t size, const Sampling& sampling, double at,
         DrawSpace& space);

}  // namespace tuition

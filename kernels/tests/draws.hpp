// Drawing a token: the kernels' choice against the rule written out.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "cpuid.hpp"
#include "draw.hpp"
#include "tiny.hpp"

namespace driver {

inline int draw_alone(const Kernels& kernels, const float* row, int64_t size, const Sampling& sampling,
                      double at) {
    DrawSpace space;
    space.reserve(size);
    kernels.enter();
    const int token = draw(kernels, row, size, sampling, at, space);
    kernels.leave();
    return token;
}

// The weights of the rule written out, in double precision and by full sorting.
inline std::vector<double> plain_weights(const std::vector<float>& row, const Sampling& sampling) {
    std::vector<size_t> order(row.size());
    for (size_t i = 0; i < row.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&row](size_t a, size_t b) { return row[a] > row[b]; });
    if (sampling.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(sampling.top_k)));
    const double top = static_cast<double>(row[order[0]]);
    auto weight = [&](size_t i) {
        return std::exp((static_cast<double>(row[i]) - top) / std::max(sampling.temperature, 1e-6));
    };
    double total = 0, sum = 0;
    for (size_t i : order) total += weight(i);
    std::vector<double> weights(row.size());
    for (size_t i : order) {
        if (sampling.top_p < 1 && sum >= sampling.top_p * total * (1 - 1e-12)) break;
        sum += weight(i);
        if (weight(i) >= sampling.min_p) weights[i] = weight(i);
    }
    return weights;
}

// The token under the draw is the one that the rule says; what is at the very edge of a cut may fall on
// either side.
inline void try_draws(const std::string& isa, bool quick) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    const Kernels& kernels = choose_kernels(isa);
    const Sampling all[] = {{1, 0, 1, 0, 0},     {2, 0, 1, 0, 0},      {1e-6, 0, 1, 0, 0},
                            {1, 1, 1, 0, 0},     {0.7, 40, 1, 0, 0},   {1, 2000, 1, 0, 0},
                            {1, 0, 0.95, 0, 0},  {1.5, 0, 1e-9, 0, 0}, {1, 0, 0.5, 0.2, 0},
                            {1, 0, 1, 0.05, 0},  {1, 0, 1, 1, 0},      {1, 300, 0.9, 0.01, 0},
                            {1, 30, 0.999, 0, 0}};
    for (int64_t size : {1, 16, 61, 700, 2048, quick ? 3000 : 49152})
        for (float levels : {0.0f, 1.0f}) {  // few levels: many ties
            std::vector<float> row(static_cast<size_t>(size));
            for (float& value : row) value = levels > 0 ? std::round(2 * normal(random)) : 2 * normal(random);
            for (const Sampling& sampling : all) {
                const std::vector<double> weights = plain_weights(row, sampling);
                double total = 0;
                for (double weight : weights) total += weight;
                for (double at : {0.0, 0.25, 0.7, 1 - 1e-15}) {
                    const int token = draw_alone(kernels, row.data(), size, sampling, at);
                    double low = 0;
                    for (int i = 0; i < token; ++i) low += weights[static_cast<size_t>(i)] / total;
                    const double high = low + weights[static_cast<size_t>(std::max(token, 0))] / total;
                    expect(token >= 0 && low - 1e-4 <= at && at <= high + 1e-4,
                           "a draw of " + std::to_string(size) + " on " + isa + ": " + std::to_string(at) +
                               " is not in " + std::to_string(low) + " to " + std::to_string(high));
                }
            }
            expect(draw_alone(kernels, row.data(), size, {}, 0) ==
                       std::max_element(row.begin(), row.end()) - row.begin(),
                   "the likeliest on " + isa);
            row.back() = std::nanf("");
            expect(draw_alone(kernels, row.data(), size, {}, 0) == -1,
                   "a token from what is no number on " + isa);
            row.back() = -INFINITY;
            expect(draw_alone(kernels, row.data(), size, {1, 0, 1, 0, 0}, 0.999999999) ==
                       (size == 1 ? -1 : static_cast<int>(size) - 2),
                   "a token that is ruled out on " + isa);
        }
}

}  // namespace driver

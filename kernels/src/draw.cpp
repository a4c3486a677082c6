#include "draw.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

namespace tuition {
namespace {

constexpr double kColdest =
    1e-6;  // as in sampler.py: below it only the likeliest token has weight in float32
constexpr float kLowest = -3.4028234e38f;
constexpr int kShifts[] = {
    18, 9, 0};  // what a bin leaves out of a weight's bits: first 32 bins for each power of two
constexpr int64_t kBins = (0x3f800000 >> 18) + 1;  // no weight is above 1

uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

int64_t num_spans(int64_t size) { return (size + kDrawSpan - 1) / kDrawSpan; }

// The first place of the largest value.
int likeliest(const float* row, int64_t size, float top, const DrawSpace& space) {
    int64_t span = 0;
    while (std::find(space.tops.data() + span * 16, space.tops.data() + (span + 1) * 16, top) ==
           space.tops.data() + (span + 1) * 16)
        ++span;
    return static_cast<int>(std::find(row + span * kDrawSpan, row + size, top) - row);
}

// Of `count` kept, keep what is above `border`, and the first `num_equal` that are equal to it.
int64_t keep_above(int64_t count, float border, int64_t num_equal, DrawSpace& space) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
        const float value = space.weights[static_cast<size_t>(i)];
        const bool equal = value == border && num_equal > 0;
        space.weights[static_cast<size_t>(kept)] = value;
        space.ids[static_cast<size_t>(kept)] = space.ids[static_cast<size_t>(i)];
        num_equal -= equal;
        kept += value > border || equal;
    }
    return kept;
}

// Gather the `wanted` most likely tokens' logits and ids, ties to the lower id; fewer where the others are
// -infinity.
//
// The tops of places that share a lane are logits too: none wanted is below the `wanted`th of them.
int64_t keep_most_likely(const Kernels& kernels, const float* row, int64_t size, int64_t wanted,
                         DrawSpace& space) {
    const int64_t rows = std::min(num_spans(size), (wanted + 3) / 4),
                  groups = rows * 16;  // four tops for each one wanted
    float* spare = space.spare.data();
    float border = kLowest;
    if (groups >= wanted) {
        std::copy_n(space.tops.data(), groups, spare);
        for (int64_t i = groups; i < num_spans(size) * 16; ++i)
            spare[i % groups] = std::max(spare[i % groups], space.tops[static_cast<size_t>(i)]);
        std::nth_element(spare, spare + wanted - 1, spare + groups, std::greater<float>());
        border = std::max(border, spare[wanted - 1]);
    }
    const int64_t count = kernels.gather(row, nullptr, size, border, space.weights.data(), space.ids.data());
    if (count <= wanted) return count;
    std::copy_n(space.weights.data(), count, spare);
    std::nth_element(spare, spare + wanted - 1, spare + count, std::greater<float>());
    const float last = spare[wanted - 1];
    const int64_t above = std::count_if(spare, spare + wanted, [last](float value) { return value > last; });
    return keep_above(count, last, wanted - above, space);
}

// Of `count` kept weights, none below `lowest`, keep the fewest that reach `wanted`; ties to the lower id.
//
// Nothing is sorted: positive floats order as their bits do, so the bin in which the end falls is cut into
// finer bins until it holds one value.
int64_t keep_nucleus(const Kernels& kernels, int64_t count, float lowest, double wanted, DrawSpace& space) {
    const float* members = space.weights.data();
    double* bins = space.bins.data();
    int64_t num_members = count;
    double above = 0;
    for (int shift : kShifts) {
        const bool first = shift == kShifts[0];
        const uint32_t mask = first ? ~0u : 511u;
        const int64_t low = first ? bits_of(lowest) >> shift : 0, high = first ? kBins : 512;
        std::fill(bins + low, bins + high, 0.0);
        for (int64_t i = 0; i < num_members; ++i)
            bins[bits_of(members[i]) >> shift & mask] += static_cast<double>(members[i]);
        int64_t bin = high - 1;
        while (bin >= low && above + bins[bin] < wanted) above += bins[bin--];
        if (bin < low && first) return count;       // what another cut left does not reach it
        while (bin < low || bins[bin] == 0) ++bin;  // two orders of adding up may differ in the last bit
        int64_t inside = 0;
        for (int64_t i = 0; i < num_members; ++i) {
            space.spare[static_cast<size_t>(inside)] = members[i];
            inside += static_cast<int64_t>(bits_of(members[i]) >> shift & mask) == bin;
        }
        members = space.spare.data(), num_members = inside;
    }
    const float border = members[0];
    const double needed = std::ceil((wanted - above) / static_cast<double>(border));
    const int64_t num_equal = static_cast<int64_t>(std::clamp(needed, 1.0, static_cast<double>(num_members)));
    if (num_equal < num_members) return keep_above(count, border, num_equal, space);
    return kernels.gather(space.weights.data(), space.ids.data(), count, border, space.weights.data(),
                          space.ids.data());
}

double total_of(int64_t count, const DrawSpace& space) {
    double total = 0;
    for (int64_t span = 0; span < num_spans(count); ++span)
        total += static_cast<double>(space.sums[static_cast<size_t>(span)]);
    return total;
}

// The first place whose running sum is more than `goal`, or the last one that adds anything; `before` it is
// subtracted.
template <typename Value>
int64_t place_in(const Value* values, int64_t count, double& goal) {
    double sum = 0, before = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (values[i] > 0) last = i, before = sum;
        sum += static_cast<double>(values[i]);
        if (sum > goal) break;
    }
    goal -= before;
    return last;
}

}  // namespace

double uniform(uint64_t seed, int64_t position) {
    constexpr uint64_t kStep = 0x9E3779B97F4A7C15u;
    return static_cast<double>(mix(mix(seed + kStep) + (static_cast<uint64_t>(position) + 1) * kStep) >> 11) *
           0x1p-53;
}

void DrawSpace::reserve(int64_t size) {
    const size_t spans = static_cast<size_t>(num_spans(size));
    if (sums.size() >= spans) return;
    tops.resize(spans * 16), sums.resize(spans), bins.resize(static_cast<size_t>(kBins));
    for (std::vector<float>* floats : {&weights, &spare}) floats->resize(spans * kDrawSpan);
    ids.resize(spans * kDrawSpan);
}

int draw(const Kernels& kernels, const float* row, int64_t size, const Sampling& sampling, double at,
         DrawSpace& space) {
    const float top = kernels.survey(row, size, space.tops.data());
    if (!std::isfinite(top)) return -1;
    if (sampling.temperature == 0) return likeliest(row, size, top, space);
    float *weights = space.weights.data(), *sums = space.sums.data();
    int32_t* ids = space.ids.data();
    int64_t count = size;
    const bool few = 0 < sampling.top_k && sampling.top_k < size;
    if (few) count = keep_most_likely(kernels, row, size, sampling.top_k, space);
    kernels.weigh(few ? weights : row, count, top,
                  static_cast<float>(1 / std::max(sampling.temperature, kColdest)), weights, sums);
    double total = total_of(count, space);
    const bool cut = sampling.top_p < 1 || sampling.min_p > 0;
    if (cut) {
        float border = static_cast<float>(sampling.min_p);
        // Weights below an equal share of what may be left out cannot together be more than that.
        if (sampling.top_p < 1)
            border = std::max(border,
                              static_cast<float>((1 - sampling.top_p) * total / static_cast<double>(count)));
        count = kernels.gather(weights, few ? ids : nullptr, count, border, weights, ids);
        if (sampling.top_p < 1) count = keep_nucleus(kernels, count, border, sampling.top_p * total, space);
        kernels.add_up(weights, count, sums);
        total = total_of(count, space);
    }
    double goal = at * total;
    const int64_t span = place_in(sums, num_spans(count), goal);  // first which span, then which place in it
    const int64_t place = span * kDrawSpan + place_in(weights + span * kDrawSpan,
                                                      std::min(kDrawSpan, count - span * kDrawSpan), goal);
    return few || cut ? ids[place] : static_cast<int>(place);
}

}  // namespace tuition

#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "cpuid.hpp"
#include "memory.hpp"
#include "team.hpp"

namespace tuition {
namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Median rate of `pass`, which does `amount` of work on all threads, over passes that fill `seconds` (three
// at least).
template <typename Pass>
double median_rate(double amount, double seconds, Pass pass) {
    pass();
    std::vector<double> rates;
    const double begin = now();
    while (now() - begin < seconds || rates.size() < 3) {
        const double start = now();
        pass();
        rates.push_back(amount / (now() - start));
    }
    std::nth_element(rates.begin(), rates.begin() + static_cast<long>(rates.size() / 2), rates.end());
    return rates[rates.size() / 2];
}

}  // namespace

double read_bandwidth(int64_t bytes, int num_threads, double seconds, bool pin) {
    if (bytes < 4096 || num_threads < 1)
        throw std::invalid_argument("read_bandwidth: wanted 4096 bytes and 1 thread at least");
    Buffer buffer(bytes);
    std::memset(buffer.data(), 1, static_cast<size_t>(bytes));
    Team team(num_threads, pin);
    const Kernels& kernels = choose_kernels("auto");
    std::atomic<uint64_t> kept{0};
    const int64_t share = bytes / num_threads / 4096 * 4096;
    return median_rate(static_cast<double>(share) * num_threads, seconds, [&] {
        team.run(
            [&](int thread) { kept.fetch_add(kernels.read_all(buffer.data() + thread * share, share)); });
    });
}

double matrix_rate(const std::string& kind, int num_threads, double seconds, const std::string& isa,
                   bool pin) {
    const int code = kind == "float32" ? 0 : kind == "bf16" ? 1 : kind == "int8" ? 2 : -1;
    if (code < 0 || num_threads < 1)
        throw std::invalid_argument("matrix_rate: wanted float32, bf16 or int8, and 1 thread at least");
    Team team(num_threads, pin);
    const Kernels& kernels = choose_kernels(isa);
    std::atomic<double> operations{0};
    double amount = 0;
    auto pass = [&] {
        operations.store(0);
        team.run([&](int) {
            kernels.enter();
            const double done = kernels.matrix_work(code, 200000);
            kernels.leave();
            double seen = operations.load();
            while (!operations.compare_exchange_weak(seen, seen + done)) {}
        });
        amount = operations.load();
    };
    pass();
    return median_rate(amount, seconds, pass);
}

}  // namespace tuition

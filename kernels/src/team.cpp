#include "team.hpp"

#include <sched.h>

#include <chrono>

#if defined(__linux__)
#include <pthread.h>
#endif

namespace tuition {
namespace {

constexpr int kSpins = 4000;   // some ten microseconds
constexpr int kYields = 2000;  // then a few milliseconds, then sleep

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void pin_to(int index) {
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    int seen = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed) || seen++ != index) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(pthread_self(), sizeof one, &one);
        return;
    }
#else
    (void)index;
#endif
}

}  // namespace

Team::Team(int size, bool pin) : size_(size) {
    for (int index = 1; index < size_; ++index)
        threads_.emplace_back([this, index, pin] {
            if (pin) pin_to(index);
            serve(index);
        });
}

Team::~Team() {
    {
        std::lock_guard<std::mutex> hold(mutex_);
        stop_.store(true);
        round_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(int)>& work) {
    work_ = &work;
    if (size_ > 1) {
        round_.fetch_add(
            1);  // with sleeping_ below: both sequentially consistent, so one of the two sees the other
        if (sleeping_.load() > 0) {
            std::lock_guard<std::mutex> hold(mutex_);
            wake_.notify_all();
        }
    }
    work(0);
    wait();
}

void Team::serve(int index) {
    uint64_t seen = 0;
    while (true) {
        int turns = 0;
        while (round_.load(std::memory_order_acquire) == seen) {
            if (++turns < kSpins) {
                pause();
            } else if (turns < kSpins + kYields) {
                sched_yield();
            } else {
                std::unique_lock<std::mutex> hold(mutex_);
                sleeping_.fetch_add(1);
                wake_.wait(hold, [this, seen] { return round_.load() != seen; });
                sleeping_.fetch_sub(1);
            }
        }
        ++seen;
        if (stop_.load()) return;
        (*work_)(index);
        wait();
    }
}

void Team::wait() {
    if (size_ == 1) return;
    const uint64_t passed = passed_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        passed_.store(passed + 1, std::memory_order_release);
        return;
    }
    for (int turns = 0; passed_.load(std::memory_order_acquire) == passed; ++turns)
        turns < kSpins ? pause() : static_cast<void>(sched_yield());
}

}  // namespace tuition

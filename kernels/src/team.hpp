// The threads that work on a step together, and their barrier.
//
// Waiting spins briefly, because a barrier inside a step is met within a microsecond; then it yields, because
// a spin that never yields collapses as soon as any other process wants the core; between steps it sleeps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tuition {

class Team {
  public:
    // `pin`: keep thread i on the i-th processor that the process may use; the calling thread is left alone.
    Team(int size, bool pin);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // Call work(i) on every thread i at once; the caller is thread 0. Returns when all are done. `work` must
    // not throw.
    void run(const std::function<void(int)>& work);

    // Inside `run`: nobody passes before all have come.
    void wait();

  private:
    void serve(int index);

    int size_;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* work_ = nullptr;
    alignas(64) std::atomic<uint64_t> round_{0};  // grows by one with every run
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint64_t> passed_{0};  // barriers behind us
    alignas(64) std::atomic<int> sleeping_{0};
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
};

}  // namespace tuition

#include "memory.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace tuition {
namespace {
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kSlack = 16384;  // vector loads and prefetches may look behind the end
}  // namespace

// Large ones come from the system, which gives zeroed pages when they are first touched: a cache that is
// never filled takes no memory.
Buffer::Buffer(int64_t bytes) {
    if (bytes < kHugePage) {
        bytes_ = (bytes + kSlack + 63) / 64 * 64;
        data_ = static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(bytes_)));
        if (data_ == nullptr) throw std::bad_alloc();
        std::memset(data_, 0, static_cast<size_t>(bytes_));
        return;
    }
    bytes_ = (bytes + kSlack + kHugePage - 1) / kHugePage * kHugePage;
    mapped_ = bytes_ + kHugePage;
    void* memory = mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(memory);
    data_ = base_ +
            (kHugePage - static_cast<int64_t>(reinterpret_cast<uintptr_t>(base_) % kHugePage)) % kHugePage;
#if defined(MADV_HUGEPAGE)
    madvise(data_, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
#endif
}

Buffer::~Buffer() {
    if (base_ != nullptr)
        munmap(base_, static_cast<size_t>(mapped_));
    else
        std::free(data_);
}

}  // namespace tuition

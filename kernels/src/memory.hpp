// Memory in huge pages: fewer address translations, and prefetchers that are not stopped at every 4 KiB.
#pragma once

#include <cstdint>
#include <utility>

namespace tuition {

// Zeroed bytes, 2 MiB aligned when large, 64 otherwise; freed with the object. Throws std::bad_alloc.
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(int64_t bytes);
    ~Buffer();
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        std::swap(base_, other.base_);
        std::swap(mapped_, other.mapped_);
        return *this;
    }
    uint8_t* data() const { return data_; }
    int64_t bytes() const { return bytes_; }
    template <typename T>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }

  private:
    uint8_t* data_ = nullptr;
    int64_t bytes_ = 0;
    uint8_t* base_ = nullptr;  // of the mapping, where there is one
    int64_t mapped_ = 0;
};

}  // namespace tuition

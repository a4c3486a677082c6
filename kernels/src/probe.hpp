// What the machine can do at best, with the same threads as a step: the roofline.
#pragma once

#include <cstdint>
#include <string>

namespace tuition {

// Bytes per second read from a buffer of `bytes` (in huge pages, read again and again), median of passes in
// `seconds`.
double read_bandwidth(int64_t bytes, int num_threads, double seconds, bool pin);

// Operations per second (a multiply-add is two) on registers alone, all threads. kind: "float32", "bf16" or
// "int8".
double matrix_rate(const std::string& kind, int num_threads, double seconds, const std::string& isa,
                   bool pin);

}  // namespace tuition

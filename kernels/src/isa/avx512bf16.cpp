// AVX-512 with products of pairs of bf16, but no matrix unit: Zen 4 and later, Cooper Lake.
#include "../kernels.hpp"

#if defined(TUITION_BUILD_X86)
#define TUITION_ISA avx512bf16
#define TUITION_AVX512
#define TUITION_BF16_DOT
#include "table.hpp"

namespace tuition {
const Kernels* avx512bf16_kernels() {
    static const Kernels kernels = avx512bf16::table("avx512bf16");
    return &kernels;
}
}  // namespace tuition
#else
namespace tuition {
const Kernels* avx512bf16_kernels() { return nullptr; }
}  // namespace tuition
#endif

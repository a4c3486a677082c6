// AVX2, FMA and F16C: x86 since about 2013.
#include "../kernels.hpp"

#if defined(TUITION_BUILD_X86)
#define TUITION_ISA avx2
#define TUITION_AVX2
#include "table.hpp"

namespace tuition {
const Kernels* avx2_kernels() {
    static const Kernels kernels = avx2::table("avx2");
    return &kernels;
}
}  // namespace tuition
#else
namespace tuition {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace tuition
#endif

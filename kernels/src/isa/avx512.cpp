// AVX-512 with VNNI: servers since about 2019.
#include "../kernels.hpp"

#if defined(TUITION_BUILD_X86)
#define TUITION_ISA avx512
#define TUITION_AVX512
#include "table.hpp"

namespace tuition {
const Kernels* avx512_kernels() {
    static const Kernels kernels = avx512::table("avx512");
    return &kernels;
}
}  // namespace tuition
#else
namespace tuition {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace tuition
#endif

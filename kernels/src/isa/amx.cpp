// AVX-512 and the matrix unit (AMX int8 and bf16): servers since about 2023.
#include "../kernels.hpp"

#if defined(TUITION_BUILD_X86)
#define TUITION_ISA amx
#define TUITION_AVX512
#define TUITION_AMX
#include "table.hpp"

namespace tuition {
const Kernels* amx_kernels() {
    static const Kernels kernels = amx::table("amx");
    return &kernels;
}
}  // namespace tuition
#else
namespace tuition {
const Kernels* amx_kernels() { return nullptr; }
}  // namespace tuition
#endif

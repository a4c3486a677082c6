// Plain C++ for any processor (compiled without flags for a particular one); also the reading of reference.
#define TUITION_ISA portable
#include "table.hpp"

namespace tuition {
const Kernels* portable_kernels() {
    static const Kernels kernels = portable::table("portable");
    return &kernels;
}
}  // namespace tuition

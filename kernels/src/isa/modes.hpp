// How the processor is set while a step runs: denormals are flushed to zero, as matrix units always do.
#pragma once

#include "vec.hpp"

namespace tuition {
namespace TUITION_ISA {

#if defined(TUITION_AVX512) || defined(TUITION_AVX2)
constexpr unsigned kFlushDenormals = 0x8040;  // FTZ and DAZ
static thread_local unsigned saved_mode = 0;
inline void enter() {
    saved_mode = _mm_getcsr();
    _mm_setcsr(saved_mode | kFlushDenormals);
}
inline void leave() { _mm_setcsr(saved_mode); }
#else
inline void enter() {}
inline void leave() {}
#endif

}  // namespace TUITION_ISA
}  // namespace tuition

#include "cpuid.hpp"

#include <cstdlib>
#include <stdexcept>

#if defined(TUITION_BUILD_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tuition {
namespace {

#if defined(TUITION_BUILD_X86)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

#if defined(TUITION_EMULATE_TILES)  // see isa/tiles.hpp: what the rest of amx.cpp needs
bool allow_tiles() { return has_avx512bf16(); }
#else
// Tiles hold 8 KiB that the system must save at every switch of threads; a process has to ask before its
// first use.
bool allow_tiles() {
#if defined(__linux__)
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const bool bf16 = d >> 22 & 1, tile = d >> 24 & 1, int8 = d >> 25 & 1;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return bf16 && tile && int8 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
#endif
#endif

const Kernels* find(const std::string& isa) {
#if defined(TUITION_BUILD_X86)
    static const bool avx2 = has_avx2(), avx512 = has_avx512(), amx = avx512 && allow_tiles();
    if (isa == "amx") return amx ? amx_kernels() : nullptr;
    static const bool avx512bf16 = has_avx512bf16();
    if (isa == "avx512bf16") return avx512bf16 ? avx512bf16_kernels() : nullptr;
    if (isa == "avx512") return avx512 ? avx512_kernels() : nullptr;
    if (isa == "avx2") return avx2 ? avx2_kernels() : nullptr;
#endif
    return isa == "portable" ? portable_kernels() : nullptr;
}

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const char* name : {"amx", "avx512bf16", "avx512", "avx2", "portable"})
        if (find(name) != nullptr) names.emplace_back(name);
    return names;
}

const Kernels& choose_kernels(const std::string& wanted) {
    std::string isa = wanted;
    if (const char* forced = std::getenv("TUITION_ISA"); isa == "auto" && forced != nullptr && *forced)
        isa = forced;
    if (isa == "auto") isa = available_isas().front();
    if (const Kernels* kernels = find(isa)) return *kernels;
    std::string names;
    for (const std::string& name : available_isas()) names += (names.empty() ? "" : ", ") + name;
    throw std::invalid_argument("isa: got '" + isa + "', wanted one of those this machine has: " + names);
}

}  // namespace tuition

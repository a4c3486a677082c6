// Which instruction sets this processor and system allow, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace tuition {

// Best first: "amx", "avx512bf16", "avx512", "avx2", "portable".
std::vector<std::string> available_isas();

// The kernels named, or the best ones for "auto" (or what the environment variable TUITION_ISA names).
// Throws std::invalid_argument for a name that is unknown or that this machine does not have.
const Kernels& choose_kernels(const std::string& isa);

}  // namespace tuition

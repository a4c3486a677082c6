// Fills the table of functions for the instruction set of the including translation unit.
#pragma once

#include "../kernels.hpp"
#include "attention.hpp"
#include "draw.hpp"
#include "low_rank.hpp"
#include "modes.hpp"
#include "norm.hpp"
#include "prepare.hpp"
#include "probe.hpp"
#include "product_float.hpp"
#include "product_integer.hpp"
#include "product_tiles.hpp"
#include "remember.hpp"

namespace tuition {
namespace TUITION_ISA {

// Rows from which the matrix unit is used; both ways give the same bits, so this is a question of speed
// alone.
constexpr int kTileRowsBf16 = 2;
constexpr int kTileRowsInteger = 4;
#if defined(TUITION_AMX)
constexpr int kRowsApart = 128;
#else
constexpr int kRowsApart = 32;
#endif

inline void multiply(const Product& p) {
    if (p.first >= p.last) return;
    const bool integer = is_integer(p.weight->format);
#if defined(TUITION_AMX)
    if (integer && p.num_rows >= kTileRowsInteger) return multiply_integer_tiles(p);
    if (p.weight->format == Format::bf16 && p.num_rows >= kTileRowsBf16) return multiply_bf16_tiles(p);
#endif
    integer ? multiply_integer(p) : multiply_float(p);
}

#if defined(TUITION_AMX)
inline void leave_tiles() {
    release_tiles();  // spares the system from saving 8 KiB of tiles at every switch
    leave();
}
#endif

inline Kernels table(const char* name) {
    Kernels k{};
    k.name = name, k.rows_apart = kRowsApart;
    k.enter = enter, k.leave = leave;
    k.norm = norm, k.layer_norm = layer_norm;
    k.prepare = prepare, k.multiply = multiply, k.shrink = shrink, k.expand = expand, k.rotate = rotate;
    k.store_key = store_key, k.store_value = store_value, k.scale_query = scale_query;
    k.attend_span = attend_span, k.merge_span = merge_span, k.divide = divide;
    k.survey = survey, k.weigh = weigh, k.add_up = add_up, k.gather = gather;
    k.read_all = read_all, k.matrix_work = matrix_work;
#if defined(TUITION_AMX)
    k.leave = leave_tiles;
#endif
    return k;
}

}  // namespace TUITION_ISA
}  // namespace tuition

// Converts the 9 taps of LANES consecutive 3x3 kernels to 9 vectors of one tap each, and back.
//
// In memory the taps of a kernel are side by side. LANES and 9 have no common factor, so over the kernels' 9 vectors each
// lane holds every tap exactly once. So it is enough to rotate each lane through the vectors by its own distance, and then
// to permute each vector.
#pragma once

#include "vectors.hpp"

namespace verydeep {

constexpr int TAPS = 9;

#ifdef VERYDEEP_SHUFFLES
constexpr int INVERSE = LANES == 16 ? 4 : LANES == 8 ? 8 : 7;
static_assert(LANES * INVERSE % TAPS == 1, "INVERSE is that of LANES modulo 9");

// Takes `b` in the lanes whose number modulo 9 has the bit STEP, and `a` in the others.
template <int STEP, size_t... LANE>
inline vec where_bit(vec a, vec b, std::index_sequence<LANE...>) {
  return __builtin_shufflevector(a, b, (LANE % TAPS & STEP ? LANES + LANE : LANE)...);
}

// Moves lane p of each vector p vectors on (modulo 9), or back if BACK.
template <bool BACK, int STEP = 1>
inline void turn(vec v[TAPS]) {
  vec from[TAPS];
#pragma GCC unroll 9
  for (int t = 0; t < TAPS; ++t) from[t] = v[t];
#pragma GCC unroll 9
  for (int t = 0; t < TAPS; ++t)
    v[t] = where_bit<STEP>(from[t], from[(t + (BACK ? STEP : TAPS - STEP)) % TAPS], std::make_index_sequence<LANES>());
  if constexpr (2 * STEP < LANES) turn<BACK, 2 * STEP>(v);
}

// After the turn, lane l of the tap T is in lane 9 * l + T modulo LANES; 9 * 9 is 1 modulo 4, 8 and 16.
template <int T, size_t... LANE>
inline vec in_order(vec v, std::index_sequence<LANE...>) {
  return __builtin_shufflevector(v, v, ((TAPS * LANE + T) % LANES)...);
}
template <int T, size_t... LANE>
inline vec out_of_order(vec v, std::index_sequence<LANE...>) {
  return __builtin_shufflevector(v, v, (TAPS * (LANE + LANES * TAPS - T) % LANES)...);
}
template <size_t... T>
inline void put_in_order(const vec turned[TAPS], vec taps[TAPS], std::index_sequence<T...>) {
  ((taps[T] = in_order<T>(turned[T], std::make_index_sequence<LANES>())), ...);
}
template <size_t... T>
inline void put_out_of_order(const vec taps[TAPS], vec turned[TAPS], std::index_sequence<T...>) {
  ((turned[T] = out_of_order<T>(taps[T], std::make_index_sequence<LANES>())), ...);
}

inline void split_taps(const vec kernels[TAPS], vec taps[TAPS]) {
  vec turned[TAPS];
#pragma GCC unroll 9
  for (int t = 0; t < TAPS; ++t) turned[t] = kernels[INVERSE * t % TAPS];
  turn<false>(turned);
  put_in_order(turned, taps, std::make_index_sequence<TAPS>());
}

inline void join_taps(const vec taps[TAPS], vec kernels[TAPS]) {
  vec turned[TAPS];
  put_out_of_order(taps, turned, std::make_index_sequence<TAPS>());
  turn<true>(turned);
#pragma GCC unroll 9
  for (int t = 0; t < TAPS; ++t) kernels[INVERSE * t % TAPS] = turned[t];
}
#else
inline void split_taps(const vec kernels[TAPS], vec taps[TAPS]) {
  for (int i = 0; i < TAPS * LANES; ++i) taps[i % TAPS][i / TAPS] = kernels[i / LANES][i % LANES];
}

inline void join_taps(const vec taps[TAPS], vec kernels[TAPS]) {
  for (int i = 0; i < TAPS * LANES; ++i) kernels[i / LANES][i % LANES] = taps[i % TAPS][i / TAPS];
}
#endif

// The taps of up to LANES kernels, from memory and to it.
inline void load_taps(const float* from, int kernels, vec taps[TAPS]) {
  vec lines[TAPS];
#pragma GCC unroll 9
  for (int v = 0; v < TAPS; ++v) {
    const int there = TAPS * kernels - v * LANES;
    lines[v] = kernels == LANES ? load(from + v * LANES) : load_some(from + v * LANES, there < 0 ? 0 : there);
  }
  split_taps(lines, taps);
}

inline void store_taps(float* to, int kernels, const vec taps[TAPS]) {
  vec lines[TAPS];
  join_taps(taps, lines);
#pragma GCC unroll 9
  for (int v = 0; v < TAPS; ++v) {
    const int there = TAPS * kernels - v * LANES;
    if (kernels == LANES) {
      store(to + v * LANES, lines[v]);
    } else if (there > 0) {
      store_some(to + v * LANES, lines[v], there);
    }
  }
}

}  // namespace verydeep

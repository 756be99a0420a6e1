// Vectors of floats, of the size that this file is compiled for: 16 with AVX-512, 8 with AVX2, otherwise 4.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "assertions.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace verydeep {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int ROWS = 14;  // 14 x 2 sums, 2 operands and a broadcast fit into 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int ROWS = 6;  // 6 x 2 sums, 2 operands and a broadcast fit into 16 registers
#else
constexpr int LANES = 4;
constexpr int ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;  // output channels that a product computes at once

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint8_t unaligned_bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const unaligned_vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<unaligned_vec*>(p) = v; }

// A non-temporal store, if the processor has one, to an address that is a multiple of the vector's size: a cache line that
// is overwritten as a whole need not be fetched first. Other threads see it after finish_streams().
inline void stream(float* p, vec v) {
  VERYDEEP_EXPECT(reinterpret_cast<uintptr_t>(p) % sizeof(vec) == 0);
#if defined(__AVX512F__)
  _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
#else
  store(p, v);
#endif
}
inline void finish_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// The first `n` lanes only, at the end of a row of channels; loads set the others to 0.
inline vec load_some(const float* p, int n) {
  if (n >= LANES) return load(p);
  vec v = {};
  std::memcpy(&v, p, n * sizeof(float));
  return v;
}
inline void store_some(float* p, vec v, int n) {
  if (n >= LANES) {
    store(p, v);
  } else {
    std::memcpy(p, &v, n * sizeof(float));
  }
}
inline bytes load_bytes(const uint8_t* p, int n) {
  if (n >= LANES) return *reinterpret_cast<const unaligned_bytes*>(p);
  bytes v = {};
  std::memcpy(&v, p, n);
  return v;
}
inline void store_bytes(uint8_t* p, bytes v, int n) {
  if (n >= LANES) {
    *reinterpret_cast<unaligned_bytes*>(p) = v;
  } else {
    std::memcpy(p, &v, n);
  }
}
inline vec all(float x) { return x - vec{}; }

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define VERYDEEP_SHUFFLES
#endif
#endif

#ifdef VERYDEEP_SHUFFLES
// Two rows of a square exchange their off-diagonal blocks of STEP lanes.
template <int STEP, size_t... LANE>
inline void exchange(vec& a, vec& b, std::index_sequence<LANE...>) {
  const vec first = __builtin_shufflevector(a, b, (LANE & STEP ? LANES + LANE - STEP : LANE)...);
  b = __builtin_shufflevector(a, b, (LANE & STEP ? LANES + LANE : LANE + STEP)...);
  a = first;
}
template <int STEP>
inline void transpose_by(vec rows[LANES]) {
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i)
    if ((i & STEP) == 0) exchange<STEP>(rows[i], rows[i + STEP], std::make_index_sequence<LANES>());
  if constexpr (STEP > 1) transpose_by<STEP / 2>(rows);
}
inline void transpose(vec rows[LANES]) { transpose_by<LANES / 2>(rows); }
#else
inline void transpose(vec rows[LANES]) {
  for (int i = 0; i < LANES; ++i)
    for (int j = i + 1; j < LANES; ++j) {
      const float one = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = one;
    }
}
#endif

// Reads up to LANES rows of up to LANES floats, and returns their columns.
inline void read_transposed(const float* from, int64_t row, int rows, int lanes, vec columns[LANES]) {
  vec square[LANES];
#pragma GCC unroll 16
  for (int k = 0; k < LANES; ++k) square[k] = k < rows ? load_some(from + k * row, lanes) : vec{};
  transpose(square);
#pragma GCC unroll 16
  for (int k = 0; k < LANES; ++k) columns[k] = square[k];
}

inline int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
inline int64_t rounded_up(int64_t n, int64_t step) { return parts(n, step) * step; }

}  // namespace verydeep

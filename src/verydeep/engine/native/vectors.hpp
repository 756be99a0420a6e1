// Vectors of as many floats as this file is compiled for: 16 with AVX-512, 8 with AVX2, else 4.
#pragma once

#include <cstdint>
#include <cstring>

namespace verydeep {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int ROWS = 14;  // 14 x 2 sums, 2 operands and a broadcast fill the 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int ROWS = 6;  // 6 x 2 sums, 2 operands and a broadcast fit into 16 registers
#else
constexpr int LANES = 4;
constexpr int ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;  // channels that a product computes at once

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint8_t unaligned_bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const unaligned_vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<unaligned_vec*>(p) = v; }

// The first `n` lanes only, where a row of channels ends; the others are 0.
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
inline vec larger(vec a, vec b) { return a > b ? a : b; }

inline int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
inline int64_t rounded_up(int64_t n, int64_t step) { return parts(n, step) * step; }

}  // namespace verydeep

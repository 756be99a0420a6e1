// The matrix product: up to ROWS x PANEL sums held in registers while the depth is walked once.
#pragma once

#include "vectors.hpp"

namespace verydeep {

// sums[m][n] (+)= sum over k of a[m, k] * b[k, n], for m < M and V vectors of n.
//   a[m, k] lies at a + m * a_row + k * a_step, b[k, .] at b + k * b_step, sums[m, .] at sums + m * row.
template <int M, int V, bool ADD>
inline void product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, float* sums,
                    int64_t row, int64_t depth) {
  vec sum[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[m][v] = ADD ? load(sums + m * row + v * LANES) : vec{};
  for (int64_t k = 0; k < depth; ++k) {
    vec right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) right[v] = load(b + v * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const vec left = all(a[m * a_row]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[m][v] += left * right[v];
    }
    a += a_step;
    b += b_step;
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(sums + m * row + v * LANES, sum[m][v]);
}

template <int M, bool ADD>
void product_rows(int rows, int vectors, const float* a, int64_t a_row, int64_t a_step, const float* b,
                  int64_t b_step, float* sums, int64_t row, int64_t depth) {
  if (rows == M) {
    if (vectors == 2) {
      product<M, 2, ADD>(a, a_row, a_step, b, b_step, sums, row, depth);
    } else {
      product<M, 1, ADD>(a, a_row, a_step, b, b_step, sums, row, depth);
    }
  } else if constexpr (M > 1) {
    product_rows<M - 1, ADD>(rows, vectors, a, a_row, a_step, b, b_step, sums, row, depth);
  }
}

// Any number of rows: cut into parts as equal as can be, so that none is left with few.
template <bool ADD>
void product(int64_t rows, int vectors, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
             float* sums, int64_t row, int64_t depth) {
  const int64_t count = parts(rows, ROWS);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t from = rows * i / count, to = rows * (i + 1) / count;
    product_rows<ROWS, ADD>(static_cast<int>(to - from), vectors, a + from * a_row, a_row, a_step, b, b_step,
                            sums + from * row, row, depth);
  }
}

}  // namespace verydeep

// The matrix product: up to ROWS x PANEL sums are held in registers during one pass over the depth.
#pragma once

#include "vectors.hpp"

namespace verydeep {

// Memory to prefetch into the core's own cache during a product, which calls ask() in each step and ask_piece() before
// each group of rows.
struct NothingAhead {  // if hardware prefetching does as well
  void ask() {}
  void ask_piece() {}
};

// Two streams that are prefetched step by step, and one in pieces. Sizes are in floats.
struct Streams {
  const float* first;
  const float* second;
  const float* third;
  int64_t first_step, second_step, third_piece;

  void ask() {
    __builtin_prefetch(first, 0, 2);
    __builtin_prefetch(second, 0, 2);
    first += first_step;
    second += second_step;
  }
  void ask_piece() {
    constexpr int64_t LINE = 64 / sizeof(float);  // per cache line
    for (int64_t i = 0; i < third_piece; i += LINE) __builtin_prefetch(third + i, 0, 2);
    third += third_piece;
  }
};

// Where the sums of a product are read and written, by row and vector; on() moves to the next rows.
template <bool ADD>
struct Sums {
  float* sums;
  int64_t row;

  vec begin(int m, int v) const { return ADD ? load(sums + m * row + v * LANES) : vec{}; }
  void end(int m, int v, vec sum) const { store(sums + m * row + v * LANES, sum); }
  void on(int rows) { sums += rows * row; }
};

// For m < M and V vectors of n: takes sums from `to`, adds the sum over k of a[m, k] * b[k, n], and puts them back.
//   a[m, k] is at a + m * a_row + k * a_step, and b[k, .] at b + k * b_step.
template <int M, int V, class To, class Next>
inline void product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, const To& to,
                    int64_t depth, Next& next) {
  vec sum[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[m][v] = to.begin(m, v);
  for (int64_t k = 0; k < depth; ++k) {
    next.ask();
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
    for (int v = 0; v < V; ++v) to.end(m, v, sum[m][v]);
}

template <int M, class To, class Next>
void product_rows(int rows, int vectors, const float* a, int64_t a_row, int64_t a_step, const float* b,
                  int64_t b_step, const To& to, int64_t depth, Next& next) {
  if (rows == M) {
    if (vectors == 2) {
      product<M, 2>(a, a_row, a_step, b, b_step, to, depth, next);
    } else {
      product<M, 1>(a, a_row, a_step, b, b_step, to, depth, next);
    }
  } else if constexpr (M > 1) {
    product_rows<M - 1>(rows, vectors, a, a_row, a_step, b, b_step, to, depth, next);
  }
}

// The same for any number of rows: they are divided into groups of nearly equal size, so that none has few.
template <class To, class Next = NothingAhead>
void product(int64_t rows, int vectors, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
             To to, int64_t depth, Next next = {}) {
  int left = static_cast<int>(rows);
  for (int count = (left + ROWS - 1) / ROWS; count > 0; --count) {
    const int some = left / count;
    next.ask_piece();
    product_rows<ROWS>(some, vectors, a, a_row, a_step, b, b_step, to, depth, next);
    a += some * a_row;
    to.on(some);
    left -= some;
  }
}

}  // namespace verydeep

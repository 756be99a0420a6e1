// The matrix product: up to ROWS x PANEL sums held in registers while the depth is walked once.
#pragma once

#include "vectors.hpp"

namespace verydeep {

// What is asked for from memory before it is read, so that it has come to the core's own cache by then. A product calls
// ask() in each step, and ask_piece() before each of its parts.
struct NothingAhead {  // where the processor's own guesses do as well
  void ask() {}
  void ask_piece() {}
};

// Two streams, a little in each step, and one in pieces. In floats.
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
    constexpr int64_t LINE = 64 / sizeof(float);  // of the cache
    for (int64_t i = 0; i < third_piece; i += LINE) __builtin_prefetch(third + i, 0, 2);
    third += third_piece;
  }
};

// Where the sums of a product come from and go to, by row and vector; on() is called before the next rows.
template <bool ADD>
struct Sums {
  float* sums;
  int64_t row;

  vec begin(int m, int v) const { return ADD ? load(sums + m * row + v * LANES) : vec{}; }
  void end(int m, int v, vec sum) const { store(sums + m * row + v * LANES, sum); }
  void on(int rows) { sums += rows * row; }
};

// For m < M and V vectors of n: begins with `to`, adds the sum over k of a[m, k] * b[k, n], and ends there.
//   a[m, k] lies at a + m * a_row + k * a_step, b[k, .] at b + k * b_step.
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

// Any number of rows: cut into parts as equal as can be, so that none is left with few.
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

// The weights of a 3x3 convolution at the 36 points.
//
// They are transformed in each pass: it takes hardly longer than reading transformed ones, four times as large, from memory,
// and nothing has to be kept that may be out of date.
#pragma once

#include "parallel.hpp"
#include "phases.hpp"
#include "product.hpp"
#include "tiles.hpp"

namespace verydeep {

// Weights [out][3][3][in], as the convolution takes them or, rotated by 180 degrees and with out and in exchanged, as
// the input's gradient does.
struct Weights {
  const float* weights;
  int64_t out, in;
  bool rotated;

  int64_t depth() const { return rotated ? out : in; }
  int64_t outputs() const { return rotated ? in : out; }
  int64_t panels() const { return parts(outputs(), PANEL); }
  Channels panel(int64_t number) const {
    const int64_t end = (number + 1) * PANEL;
    return {number * PANEL, end < outputs() ? end : outputs()};
  }
};

// Floats of one of the 36 matrices [depth][PANEL]: a row more than the depth, or all of them would compete for the same
// places of the cache.
inline int64_t weight_matrix(int64_t depth) { return (depth + 1) * PANEL; }

// The transformed weights of LANES outputs at one depth.
inline void transform_filters(const vec filters[9], float* to, int64_t matrix, bool past_caches) {
  const auto read = [&](int i) { return filters[i]; };
  if (past_caches) {
    both_sides<3, WINDOW>(weight_transform, read, [&](int p, vec u) { stream(to + p * matrix, u); });
  } else {
    both_sides<3, WINDOW>(weight_transform, read, [&](int p, vec u) { store(to + p * matrix, u); });
  }
}

// Up to LANES rows of up to LANES floats, as columns.
inline void read_transposed(const float* from, int64_t row, int rows, int lanes, vec columns[LANES]) {
  vec square[LANES];
#pragma GCC unroll 16
  for (int k = 0; k < LANES; ++k) square[k] = k < rows ? load_some(from + k * row, lanes) : vec{};
  transpose(square);
#pragma GCC unroll 16
  for (int k = 0; k < LANES; ++k) columns[k] = square[k];
}

// The weights of up to PANEL outputs at some depths, to [point][depth][PANEL]. LANES outputs at two vectors of depths are a
// group, two lines of the cache of each of its rows; while they are transformed, the next group's are asked for.
inline void transform_weights(const Weights& w, Channels outputs, Channels depths, float* to,
                              bool past_caches = false) {
  const Timed timed(WEIGHTS);
  const int64_t matrix = weight_matrix(depths.count());
  for (int64_t o = outputs.first; o < outputs.end; o += LANES, to += LANES) {
    const int there = static_cast<int>(outputs.end - o < LANES ? outputs.end - o : LANES);
    if (w.rotated) {
      for (int64_t k = depths.first; k < depths.end; ++k) {
        vec g[9];
        for (int i = 0; i < 9; ++i) g[8 - i] = load_some(w.weights + (k * 9 + i) * w.in + o, there);
        transform_filters(g, to + (k - depths.first) * PANEL, matrix, past_caches);
      }
      continue;
    }
    for (int64_t c = depths.first; c < depths.end; c += 2 * LANES) {
      vec filters[9][2 * LANES];
      const int64_t end = c + 2 * LANES < depths.end ? c + 2 * LANES : depths.end;
      for (int i = 0; i < 9; ++i)
        for (int64_t from = c; from < end; from += LANES) {
          const int lanes = static_cast<int>(end - from < LANES ? end - from : LANES);
          const float* const rows = w.weights + (o * 9 + i) * w.in + from;
          if (lanes == LANES && there == LANES) {
            read_transposed(rows, 9 * w.in, LANES, LANES, filters[i] + from - c);
          } else {
            read_transposed(rows, 9 * w.in, there, lanes, filters[i] + from - c);
          }
        }
      const bool last = end == depths.end;
      const float* const next = w.weights + (last ? o + LANES : o) * 9 * w.in + (last ? depths.first : end);
      for (int64_t k = c; k < end; ++k) {
        vec g[9];
        for (int i = 0; i < 9; ++i) {
          g[i] = filters[i][k - c];
          __builtin_prefetch(next + ((k - c) / 2 * 9 + i) * w.in + (k - c) % 2 * LANES);
        }
        transform_filters(g, to + (k - depths.first) * PANEL, matrix, past_caches);
      }
    }
  }
}

constexpr int64_t MANY = 4 << 20;  // floats of transformed weights that would push all else out of the caches

// All of them, to [panel][point][depth][PANEL].
inline const float* transform_weights(const Weights& w, Scratch& scratch, int threads) {
  const int64_t size = POINTS * weight_matrix(w.depth());
  float* const transformed = scratch.floats(w.panels() * size);
  const bool past_caches = sizeof(vec) == 64 && w.panels() * size > MANY;  // where a vector is a line of the cache
  parallel(w.panels(), threads, [&](int64_t panel) {
    transform_weights(w, w.panel(panel), {0, w.depth()}, transformed + panel * size, past_caches);
    finish_streams();
  });
  return transformed;
}

}  // namespace verydeep

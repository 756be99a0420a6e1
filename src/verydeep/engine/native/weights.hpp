// The transformed weights of a 3x3 convolution, at the 36 points.
//
// They are computed in each pass. That takes hardly longer than reading transformed weights, which are four times as
// large, from memory, and nothing is kept that could be out of date.
#pragma once

#include "parallel.hpp"
#include "phases.hpp"
#include "product.hpp"
#include "taps.hpp"
#include "tiles.hpp"

namespace verydeep {

// Weights [out][in][3][3], as the convolution uses them or, rotated by 180 degrees and with out and in exchanged, as the
// input's gradient does.
struct Weights {
  const float* weights;
  int64_t out, in;
  bool rotated;

  int64_t depth() const { return rotated ? out : in; }
  int64_t outputs() const { return rotated ? in : out; }
  int64_t panels() const { return parts(outputs(), PANEL); }
  const float* kernel(int64_t to, int64_t from) const { return weights + TAPS * (to * in + from); }
  Channels panel(int64_t number) const {
    const int64_t end = (number + 1) * PANEL;
    return {number * PANEL, end < outputs() ? end : outputs()};
  }
};

// Floats of one of the 36 matrices [depth][PANEL]: one row more than the depth, or all matrices would compete for the same
// cache sets.
inline int64_t weight_matrix(int64_t depth) { return (depth + 1) * PANEL; }

// Transforms the weights of LANES outputs at one depth.
inline void transform_filters(const vec filters[9], float* to, int64_t matrix, bool past_caches) {
  const auto read = [&](int i) { return filters[i]; };
  if (past_caches) {
    both_sides<3, WINDOW>(weight_transform, read, [&](int p, vec u) { stream(to + p * matrix, u); });
  } else {
    both_sides<3, WINDOW>(weight_transform, read, [&](int p, vec u) { store(to + p * matrix, u); });
  }
}

// Transforms the weights of up to PANEL outputs at some depths to [point][depth][PANEL]. LANES outputs at two vectors of
// depths form a group: 18 consecutive vectors in each of the outputs' rows. While a group is transformed, the next is
// prefetched.
inline void transform_weights(const Weights& w, Channels outputs, Channels depths, float* to,
                              bool past_caches = false) {
  const Timed timed(WEIGHTS);
  const int64_t matrix = weight_matrix(depths.count());
  for (int64_t o = outputs.first; o < outputs.end; o += LANES, to += LANES) {
    const int there = static_cast<int>(outputs.end - o < LANES ? outputs.end - o : LANES);
    if (w.rotated) {
      for (int64_t k = depths.first; k < depths.end; ++k) {
        vec taps[TAPS], g[TAPS];
        load_taps(w.kernel(k, o), there, taps);
        for (int i = 0; i < TAPS; ++i) g[TAPS - 1 - i] = taps[i];
        transform_filters(g, to + (k - depths.first) * PANEL, matrix, past_caches);
      }
      continue;
    }
    const int64_t row = TAPS * w.in;
    for (int64_t c = depths.first; c < depths.end; c += 2 * LANES) {
      vec filters[2 * LANES * TAPS];
      const int64_t end = c + 2 * LANES < depths.end ? c + 2 * LANES : depths.end, floats = TAPS * (end - c);
      const float* const rows = w.kernel(o, c);
      for (int64_t i = 0; i < floats; i += LANES) {
        const int lanes = static_cast<int>(floats - i < LANES ? floats - i : LANES);
        if (lanes == LANES && there == LANES) {
          read_transposed(rows + i, row, LANES, LANES, filters + i);
        } else {
          read_transposed(rows + i, row, there, lanes, filters + i);
        }
      }
      const float* const next = end == depths.end ? w.kernel(o + LANES, depths.first) : w.kernel(o, end);
      for (int64_t k = 0; k < end - c; ++k) {
        const float* const half = next + k / 2 * row + k % 2 * TAPS * LANES;
        for (int i = 0; i < TAPS; ++i) __builtin_prefetch(half + i * LANES);
        transform_filters(filters + k * TAPS, to + (c + k - depths.first) * PANEL, matrix, past_caches);
      }
    }
  }
}

constexpr int64_t MANY = 4 << 20;  // floats of transformed weights that would evict everything else from the caches

// Transforms all weights to [panel][point][depth][PANEL].
inline const float* transform_weights(const Weights& w, Scratch& scratch, int threads) {
  const int64_t size = POINTS * weight_matrix(w.depth());
  float* const transformed = scratch.floats(w.panels() * size);
  const bool past_caches = sizeof(vec) == 64 && w.panels() * size > MANY;  // if a vector is a cache line
  parallel(w.panels(), threads, [&](int64_t panel) {
    transform_weights(w, w.panel(panel), {0, w.depth()}, transformed + panel * size, past_caches);
    finish_streams();
  });
  return transformed;
}

}  // namespace verydeep

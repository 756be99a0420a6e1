// F(4x4, 3x3) of Lavin and Gray (2016): a tile of 4 x 4 outputs from 6 x 6 inputs with 36 instead of 144 multiplications.
//
// Y = A'[(G g G') . (B' d B)] A, by interpolation at 0, 1, -1, 2, -2 and infinity. All transforms act on vectors of
// channels.
#pragma once

#include "vectors.hpp"

namespace verydeep {

constexpr int TILE = 4;    // outputs along a side of a tile
constexpr int WINDOW = 6;  // inputs along a side that they need
constexpr int POINTS = WINDOW * WINDOW;

// B' of one column of inputs.
inline void input_transform(const vec d[WINDOW], vec v[WINDOW]) {
  const vec even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
  const vec even2 = d[4] - d[2], odd2 = d[3] - d[1];
  v[0] = even2 + 4.0f * (d[0] - d[2]);
  v[1] = even + odd;
  v[2] = even - odd;
  v[3] = even2 + 2.0f * odd2;
  v[4] = even2 - 2.0f * odd2;
  v[5] = (d[5] - d[3]) - 4.0f * odd2;
}

// A' of one column of products.
inline void output_transform(const vec m[WINDOW], vec y[TILE]) {
  const vec sum = m[1] + m[2], difference = m[1] - m[2], sum2 = m[3] + m[4], difference2 = m[3] - m[4];
  y[0] = m[0] + sum + sum2;
  y[1] = difference + 2.0f * difference2;
  y[2] = sum + 4.0f * sum2;
  y[3] = difference + 8.0f * difference2 + m[5];
}

// A: the adjoint of the output's transform, for the output's gradient.
inline void gradient_transform(const vec y[TILE], vec z[WINDOW]) {
  const vec even = y[0] + y[2], odd = y[1] + y[3];
  const vec even2 = y[0] + 4.0f * y[2], odd2 = 2.0f * y[1] + 8.0f * y[3];
  z[0] = y[0];
  z[1] = even + odd;
  z[2] = even - odd;
  z[3] = even2 + odd2;
  z[4] = even2 - odd2;
  z[5] = y[3];
}

// G of one column of weights.
inline void weight_transform(const vec g[3], vec u[WINDOW]) {
  const vec ends = (g[0] + g[2]) * (-1.0f / 6), middle = g[1] * (1.0f / 6);
  const vec ends2 = g[0] * (1.0f / 24) + g[2] * (1.0f / 6);
  u[0] = g[0] * 0.25f;
  u[1] = ends - middle;
  u[2] = ends + middle;
  u[3] = ends2 + 0.5f * middle;
  u[4] = ends2 - 0.5f * middle;
  u[5] = g[2];
}

// G': the adjoint of the weights' transform, for the weights' gradient.
inline void weight_gradient_transform(const vec u[WINDOW], vec g[3]) {
  const vec sum = u[1] + u[2], difference = u[2] - u[1], sum2 = u[3] + u[4], difference2 = u[3] - u[4];
  g[0] = u[0] * 0.25f - sum * (1.0f / 6) + sum2 * (1.0f / 24);
  g[1] = difference * (1.0f / 6) + difference2 * (1.0f / 12);
  g[2] = u[5] - sum * (1.0f / 6) + sum2 * (1.0f / 6);
}

// F(2, 3) by interpolation at 0, 1, -1 and infinity, which are among the points of F(4, 3). It is for the last tile along a
// side if at most two of its outputs are inside the map. Its factors fit the transformed weights of F(4, 3). The other
// points are set to 0 and not read.
constexpr int SHORT = 2;  // outputs of such a tile

inline bool has_short(int point) { return point != 3 && point != 4; }

// B' of F(2, 3).
inline void short_input_transform(const vec d[WINDOW], vec v[WINDOW]) {
  v[0] = 4.0f * (d[0] - d[2]);
  v[1] = -3.0f * (d[1] + d[2]);
  v[2] = 3.0f * (d[1] - d[2]);
  v[3] = v[4] = vec{};
  v[5] = d[3] - d[1];
}

// A' of F(2, 3).
inline void short_output_transform(const vec m[WINDOW], vec y[TILE]) {
  y[0] = m[0] + m[1] + m[2];
  y[1] = m[1] - m[2] + m[5];
  y[2] = y[3] = vec{};
}

// Transforms the columns of an IN x IN square with `down` and then its rows with `across`, to an OUT x OUT square.
//   read(i) gives the i-th input and write(i, value) takes the i-th output, both row by row. Each row is written as soon
//   as it is computed, since there are not enough registers for all of them.
template <int IN, int OUT, class Down, class Across, class Read, class Write>
inline __attribute__((always_inline)) void both_sides(Down down, Across across, Read read, Write write) {
  vec half[OUT][IN];
#pragma GCC unroll 6
  for (int x = 0; x < IN; ++x) {
    vec column[IN], transformed[OUT];
#pragma GCC unroll 6
    for (int y = 0; y < IN; ++y) column[y] = read(y * IN + x);
    down(column, transformed);
#pragma GCC unroll 6
    for (int y = 0; y < OUT; ++y) half[y][x] = transformed[y];
  }
#pragma GCC unroll 6
  for (int y = 0; y < OUT; ++y) {
    vec row[OUT];
    across(half[y], row);
#pragma GCC unroll 6
    for (int x = 0; x < OUT; ++x) write(y * OUT + x, row[x]);
    asm volatile("" ::: "memory");  // keeps the compiler from delaying the writes
  }
}

// The same transform along both sides.
template <int IN, int OUT, class Transform, class Read, class Write>
inline __attribute__((always_inline)) void both_sides(Transform transform, Read read, Write write) {
  both_sides<IN, OUT>(transform, transform, read, write);
}

}  // namespace verydeep

// Fully connected layers, applied at each position of a map where their kernel fits. At a few positions the cost is that
// of reading the weights, so each is read from memory only once.
#pragma once

#include "parallel.hpp"
#include "product.hpp"
#include "tensors.hpp"

namespace verydeep {

#if defined(__AVX512F__)
constexpr int SUMS = 24;  // vectors of sums that fit into the registers together with the operands
constexpr int GROUP = 8;  // rows that share a weight while it is in a register
#else
constexpr int SUMS = 12;
constexpr int GROUP = 4;
#endif
constexpr int FEW = 4;  // up to this many rows, weights are read in long pieces, which hardware prefetches; with more
                        // rows (AVX-512 only) pieces are short, so that the rows stay in the cache, too

// Sums of OUT outputs for N rows, one vector each, over a piece of the depth: sums[o][n] += x[n][k] * weights[o][k].
//   next: the weights that are needed afterwards; with short pieces they are prefetched.
template <int N, int OUT>
inline void dot_products(const float* x, const float* weights, const float* next, int64_t depth, int64_t length,
                         float* sums, int64_t sums_row) {
  vec sum[OUT][N];
#pragma GCC unroll 8
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[o][n] = load(sums + o * sums_row + n * LANES);
  int64_t k = 0;
  for (; k + LANES <= length; k += LANES) {
    vec w[OUT];
#pragma GCC unroll 8
    for (int o = 0; o < OUT; ++o) {
      w[o] = load(weights + o * depth + k);
      if (N > FEW) __builtin_prefetch(next + o * depth + k);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const vec right = load(x + n * depth + k);
#pragma GCC unroll 8
      for (int o = 0; o < OUT; ++o) sum[o][n] += w[o] * right;
    }
  }
  if (k < length) {
    const int rest = static_cast<int>(length - k);
    for (int o = 0; o < OUT; ++o)
      for (int n = 0; n < N; ++n)
        sum[o][n] += load_some(weights + o * depth + k, rest) * load_some(x + n * depth + k, rest);
  }
#pragma GCC unroll 8
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(sums + o * sums_row + n * LANES, sum[o][n]);
}

// The same for any number of outputs. If the last ones are a full group of OUT, the weights at `next` are prefetched.
template <int N>
void some_rows(int64_t rows, int64_t outputs, const float* x, const float* weights, const float* next, int64_t depth,
               int64_t length, float* sums, int64_t sums_row) {
  if (rows == N) {
    constexpr int OUT = SUMS / N > 8 ? 8 : SUMS / N;
    const float* w = weights;
    int64_t o = 0;
    for (; o + OUT <= outputs; o += OUT, w += OUT * depth)
      dot_products<N, OUT>(x, w, o + OUT < outputs ? w + OUT * depth : next, depth, length, sums + o * sums_row,
                           sums_row);
    for (; o < outputs; ++o, w += depth)
      dot_products<N, 1>(x, w, w + depth, depth, length, sums + o * sums_row, sums_row);
  } else if constexpr (N > 1) {
    some_rows<N - 1>(rows, outputs, x, weights, next, depth, length, sums, sums_row);
  }
}

// A map with its channels outermost, [n][c][y][x]: the order of weights whose kernel is larger than a pixel.
inline const float* channels_first(const Map& map, Scratch& scratch, int threads) {
  const auto [images, height, width, channels] = map.shape;
  const int64_t pixels = height * width, groups = parts(channels, LANES);
  float* const planes = scratch.floats(images * channels * pixels);
  parallel(images * groups, threads, [&, channels = channels](int64_t task) {
    const int64_t n = task / groups, c = task % groups * LANES;
    const int lanes = static_cast<int>(channels - c < LANES ? channels - c : LANES);
    for (int64_t pixel = 0; pixel < pixels; pixel += LANES) {
      const int there = static_cast<int>(pixels - pixel < LANES ? pixels - pixel : LANES);
      vec columns[LANES];
      read_transposed(map.x + (n * pixels + pixel) * channels + c, channels, there, lanes, columns);
      for (int l = 0; l < lanes; ++l) store_some(planes + (n * channels + c + l) * pixels + pixel, columns[l], there);
    }
  });
  return planes;
}

// The inputs of a fully connected layer: one row per position, in the order of the weights, [in][y][x].
class Rows {
 public:
  Rows(const Map& map, int64_t height, int64_t width, Scratch& scratch, int threads)
      : depth(map.shape.channels * height * width),
        count(map.shape.images * (map.shape.height - height + 1) * (map.shape.width - width + 1)),
        side_by_side(height * width == 1 || (map.shape.height == height && map.shape.width == width)),
        x_(height * width == 1 ? map.x : channels_first(map, scratch, threads)),
        map_(map.shape),
        height_(height),
        width_(width) {}

  const int64_t depth, count;
  const bool side_by_side;  // whether each row begins where the one before ends

  // The first row.
  const float* begin() const { return x_; }

  // Calls to(k, value) for each input k in [first, end) of a row.
  template <class To>
  void read(int64_t row, int64_t first, int64_t end, To to) const {
    if (side_by_side) {
      for (int64_t k = first; k < end; ++k) to(k, x_[row * depth + k]);
      return;
    }
    const int64_t down = map_.height - height_ + 1, across = map_.width - width_ + 1, plane = map_.height * map_.width;
    const int64_t n = row / (down * across), y = row / across % down, x = row % across;
    int64_t c = first / (height_ * width_), i = first / width_ % height_, j = first % width_;
    for (int64_t k = first; k < end;) {
      const float* from = x_ + (n * map_.channels + c) * plane + (y + i) * map_.width + x + j;
      const int64_t stop = k + width_ - j < end ? k + width_ - j : end;
      for (; k < stop; ++k) to(k, *from++);
      j = 0;
      if (++i == height_) i = 0, ++c;
    }
  }

 private:
  const float* x_;
  Shape map_;
  int64_t height_, width_;
};

// For many rows. The inputs are packed with rows innermost, [panel][depth][PANEL], so that a product holds PANEL rows of
// some outputs in registers, and broadcasts each weight to them.
inline void fully_connected_by_product(const Rows& x, const float* weights, const float* bias, float* y,
                                       int64_t outputs, bool rectify, int threads) {
  static thread_local Scratch packing;
  constexpr int64_t STEP = 2 * ROWS;  // outputs per task
  constexpr int64_t PIECE = 1024;     // of the depth, whose weights stay in the cache while all panels use them
  constexpr int64_t WAY = 1024;       // distance in floats at which addresses map to the same set of the L1 cache
  const int64_t rows = x.count, depth = x.depth, panels = parts(rows, PANEL);
  // Rows of weights at such a distance evict one another. They are copied if they are used often enough.
  const bool copy = depth % WAY == 0 && panels > 2;
  const int64_t weights_row = copy ? PIECE + LANES : depth;
  float* const packed = packing.floats(panels * depth * PANEL);
  parallel(parts(depth, PIECE), threads, [&](int64_t piece) {
    const int64_t end = depth < (piece + 1) * PIECE ? depth : (piece + 1) * PIECE;
    for (int64_t n = 0; n < panels * PANEL; ++n) {
      float* const to = packed + n / PANEL * depth * PANEL + n % PANEL;
      if (n < rows) {
        x.read(n, piece * PIECE, end, [to](int64_t k, float value) { to[k * PANEL] = value; });
      } else {
        for (int64_t k = piece * PIECE; k < end; ++k) to[k * PANEL] = 0;
      }
    }
  });
  parallel(parts(outputs, STEP), threads, [&](int64_t task) {
    static thread_local Scratch scratch;
    const int64_t first = task * STEP, count = outputs - first < STEP ? outputs - first : STEP;
    float* const sums = scratch.floats(STEP * (panels * PANEL + PIECE + LANES));
    float* const copied = sums + STEP * panels * PANEL;
    std::memset(sums, 0, panels * STEP * PANEL * sizeof(float));
    for (int64_t k = 0; k < depth; k += PIECE) {
      const int64_t length = depth - k < PIECE ? depth - k : PIECE;
      const float* some = weights + first * depth + k;
      if (copy) {
        for (int64_t o = 0; o < count; ++o)
          std::memcpy(copied + o * weights_row, some + o * depth, length * sizeof(float));
        some = copied;
      }
      for (int64_t panel = 0; panel < panels; ++panel)
        product(count, rows - panel * PANEL > LANES ? 2 : 1, some, weights_row, 1,
                packed + (panel * depth + k) * PANEL, PANEL, Sums<true>{sums + panel * STEP * PANEL, PANEL}, length);
    }
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t o = 0; o < count; ++o) {
        const float total = sums[(n / PANEL * STEP + o) * PANEL + n % PANEL] + bias[first + o];
        y[n * outputs + first + o] = rectify && total < 0 ? 0 : total;
      }
  });
}

// For up to GROUP rows, whose sums are kept in registers; x is [rows][depth].
inline void fully_connected_by_row(const float* x, const float* weights, const float* bias, float* y, int64_t rows,
                                   int64_t depth, int64_t outputs, bool rectify, int threads) {
  constexpr int64_t STEP = 24;  // outputs per task, a multiple of those that are computed at once
  const int64_t piece = rows > FEW ? 512 : 4096;  // of the depth
  parallel(parts(outputs, STEP), threads, [&](int64_t task) {
    static thread_local Scratch scratch;
    const int64_t first = task * STEP, count = outputs - first < STEP ? outputs - first : STEP;
    float* const sums = scratch.floats(STEP * rows * LANES);
    std::memset(sums, 0, STEP * rows * LANES * sizeof(float));
    for (int64_t k = 0; k < depth; k += piece) {
      const float* const some = weights + first * depth + k;
      const bool last = k + piece >= depth;
      some_rows<GROUP>(rows, count, x + k, some, last ? some + count * depth - k : some + piece, depth,
                       last ? depth - k : piece, sums, rows * LANES);
    }
    for (int64_t o = 0; o < count; ++o)
      for (int64_t n = 0; n < rows; ++n) {
        const vec lanes = load(sums + (o * rows + n) * LANES);
        float total = bias[first + o];
        for (int l = 0; l < LANES; ++l) total += lanes[l];
        y[n * outputs + first + o] = rectify && total < 0 ? 0 : total;
      }
  });
}

// A convolution without padding, with a height x width kernel: weights are [out][in][height][width], y is [position][out].
inline void fully_connected(const Map& map, int64_t height, int64_t width, const float* weights, const float* bias,
                            float* y, int64_t outputs, bool rectify, int threads) {
  static thread_local Scratch planes, copied;
  const Rows rows(map, height, width, planes, threads);
  if (rows.count > GROUP) return fully_connected_by_product(rows, weights, bias, y, outputs, rectify, threads);
  const float* x = rows.begin();
  if (!rows.side_by_side) {
    float* const to = copied.floats(rows.count * rows.depth);
    for (int64_t n = 0; n < rows.count; ++n)
      rows.read(n, 0, rows.depth, [to = to + n * rows.depth](int64_t k, float value) { to[k] = value; });
    x = to;
  }
  fully_connected_by_row(x, weights, bias, y, rows.count, rows.depth, outputs, rectify, threads);
}

}  // namespace verydeep

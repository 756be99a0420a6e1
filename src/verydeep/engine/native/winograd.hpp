// 3x3 convolutions with stride 1 and padding 1, their input's and their weights' gradient, by F(4x4, 3x3).
//
// A block of tiles is transformed into 36 matrices of tiles x channels, each is multiplied by the weights of its
// point, panel by panel of output channels, and the 36 products are transformed back while they are in the cache.
#pragma once

#include "parallel.hpp"
#include "product.hpp"
#include "tensors.hpp"
#include "transforms.hpp"

namespace verydeep {

// The tiles of all images, row by row.
struct Tiling {
  Shape shape;
  int64_t rows, columns, count;

  explicit Tiling(Shape s)
      : shape(s), rows(parts(s.height, TILE)), columns(parts(s.width, TILE)), count(s.images * rows * columns) {}

  struct Place {
    int64_t n, y, x;
  };
  Place place(int64_t tile) const {
    return {tile / (rows * columns), tile / columns % rows * TILE, tile % columns * TILE};
  }
};

// Rows of transformed values: a vector more than the channels, or all rows of a matrix would compete for the same
// places of the cache.
inline int64_t row_length(int64_t channels) { return rounded_up(channels, LANES) + LANES; }

// A SIDE x SIDE square whose first pixel is (y0, x0), 0 outside of the map.
template <int SIDE, class Source>
inline void read_square(const Source& source, int64_t n, int64_t y0, int64_t x0, int64_t c, int lanes,
                        vec square[SIDE * SIDE]) {
  const Shape& s = source.shape;
  const bool inside = y0 >= 0 && x0 >= 0 && y0 + SIDE <= s.height && x0 + SIDE <= s.width;
  if (inside) {
#pragma GCC unroll 6
    for (int i = 0; i < SIDE; ++i)
#pragma GCC unroll 6
      for (int j = 0; j < SIDE; ++j) square[i * SIDE + j] = source.at(n, y0 + i, x0 + j, c, lanes);
    return;
  }
  for (int i = 0; i < SIDE; ++i)
    for (int j = 0; j < SIDE; ++j) {
      const bool there = y0 + i >= 0 && y0 + i < s.height && x0 + j >= 0 && x0 + j < s.width;
      square[i * SIDE + j] = there ? source.at(n, y0 + i, x0 + j, c, lanes) : vec{};
    }
}

// One tile of the input, all channels, to values[point][tile][channel].
template <class Source>
void transform_input(const Source& source, const Tiling& tiling, int64_t tile, float* values, int64_t matrix) {
  const auto [n, y, x] = tiling.place(tile);
  const int64_t channels = source.shape.channels;
  for (int64_t c = 0; c < channels; c += LANES) {
    const int lanes = static_cast<int>(channels - c < LANES ? channels - c : LANES);
    vec d[POINTS], v[POINTS];
    if (lanes == LANES) {
      read_square<WINDOW>(source, n, y - 1, x - 1, c, LANES, d);
    } else {
      read_square<WINDOW>(source, n, y - 1, x - 1, c, lanes, d);
    }
    both_sides<WINDOW, WINDOW>(d, v, input_transform);
#pragma GCC unroll 36
    for (int p = 0; p < POINTS; ++p) store(values + p * matrix + c, v[p]);
  }
}

// One tile of the output's gradient, all channels, to values[point][tile][channel].
template <class Source>
void transform_gradient(const Source& source, const Tiling& tiling, int64_t tile, float* values, int64_t matrix) {
  const auto [n, y, x] = tiling.place(tile);
  const int64_t channels = source.shape.channels;
  for (int64_t c = 0; c < channels; c += LANES) {
    const int lanes = static_cast<int>(channels - c < LANES ? channels - c : LANES);
    vec d[TILE * TILE], v[POINTS];
    if (lanes == LANES) {
      read_square<TILE>(source, n, y, x, c, LANES, d);
    } else {
      read_square<TILE>(source, n, y, x, c, lanes, d);
    }
    both_sides<TILE, WINDOW>(d, v, gradient_transform);
#pragma GCC unroll 36
    for (int p = 0; p < POINTS; ++p) store(values + p * matrix + c, v[p]);
  }
}

// Floats of the transformed weights: [panel][point][depth][PANEL].
inline int64_t transformed_size(int64_t depth, int64_t outputs) {
  return parts(outputs, PANEL) * POINTS * depth * PANEL;
}

// Weights lie as [out][3][3][in]. For the convolution itself, in is the depth and out the panels; `gradient` gives
// those of the input's gradient, rotated by 180 degrees and with out and in exchanged.
inline void transform_weights(const float* weights, float* transformed, int64_t out, int64_t in, bool gradient,
                              int threads) {
  const int64_t depth = gradient ? out : in, outputs = gradient ? in : out;
  use_large_pages(transformed, transformed_size(depth, outputs) * sizeof(float));
  const auto matrices = [&](int64_t o, int64_t c, int lanes, vec u[POINTS]) {
    vec g[9];
    for (int i = 0; i < 9; ++i) g[gradient ? 8 - i : i] = load_some(weights + (o * 9 + i) * in + c, lanes);
    both_sides<3, WINDOW>(g, u, weight_transform);
  };
  parallel(parts(outputs, PANEL), threads, [&](int64_t panel) {
    float* const to = transformed + panel * POINTS * depth * PANEL;
    const int64_t first = panel * PANEL, end = first + PANEL < outputs ? first + PANEL : outputs;
    vec u[POINTS];
    if (end < first + PANEL) std::memset(to, 0, POINTS * depth * PANEL * sizeof(float));
    if (gradient) {
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t c = first; c < end; c += LANES) {
          const int lanes = static_cast<int>(end - c < LANES ? end - c : LANES);
          matrices(k, c, lanes, u);
          for (int p = 0; p < POINTS; ++p) store(to + (p * depth + k) * PANEL + c - first, u[p]);
        }
      return;
    }
    for (int64_t c = 0; c < depth; c += LANES) {
      const int lanes = static_cast<int>(depth - c < LANES ? depth - c : LANES);
      for (int64_t o = first; o < end; ++o) {
        matrices(o, c, lanes, u);
        for (int p = 0; p < POINTS; ++p)
          for (int l = 0; l < lanes; ++l) to[(p * depth + c + l) * PANEL + o - first] = u[p][l];
      }
    }
  });
}

// How a convolution is cut.
struct Blocks {
  int64_t tiles;  // of a block
  bool shared;    // all threads on one block, so that each weight is read once for it; or a block a thread
};

// The products of one panel with some tiles of a block, and their transform to the output.
inline void panel_of_tiles(const Tiling& tiling, int64_t first, int64_t tiles, const float* values, int64_t row,
                           int64_t matrix, const float* transformed, int64_t depth, int64_t panel, float* products,
                           const Output& output) {
  const int64_t channels = output.shape.channels, c0 = panel * PANEL;
  const int vectors = channels - c0 > LANES ? 2 : 1;
  const float* const weights = transformed + panel * POINTS * depth * PANEL;
  const int64_t product_matrix = tiles * PANEL + LANES;
  const int64_t groups = parts(tiles, ROWS);
  for (int p = 0; p < POINTS; ++p) {
    const float* const v = values + p * matrix;
    const float* const w = weights + p * depth * PANEL;
    float* const m = products + p * product_matrix;
    if (groups > 2) {
      const Ahead next{w + depth * PANEL, values + (p + 1) % POINTS * matrix, parts(PANEL, groups),
                       parts(tiles * row, groups * depth)};
      product<false>(tiles, vectors, v, row, 1, w, PANEL, m, PANEL, depth, next);
    } else {  // soon done: weights come no faster than memory gives them
      product<false>(tiles, vectors, v, row, 1, w, PANEL, m, PANEL, depth);
    }
  }
  for (int64_t t = 0; t < tiles; ++t) {
    const auto [n, y, x] = tiling.place(first + t);
    for (int v = 0; v < vectors; ++v) {
      const int64_t c = c0 + v * LANES;
      const int lanes = static_cast<int>(channels - c < LANES ? channels - c : LANES);
      vec m[POINTS], square[TILE * TILE];
#pragma GCC unroll 36
      for (int p = 0; p < POINTS; ++p) m[p] = load(products + p * product_matrix + t * PANEL + v * LANES);
      both_sides<WINDOW, TILE>(m, square, output_transform);
      if (lanes == LANES) {
        output.put<TILE>(square, n, y, x, c, LANES);
      } else {
        output.put<TILE>(square, n, y, x, c, lanes);
      }
    }
  }
}

// All output channels of some tiles, with the scratch of this thread.
template <class Source>
void block_of_tiles(const Source& source, const Tiling& tiling, int64_t first, int64_t tiles, const float* transformed,
                    const Output& output) {
  static thread_local Scratch values, products;
  const int64_t depth = source.shape.channels, row = row_length(depth), matrix = tiles * row + LANES;
  float* const v = values.floats(POINTS * matrix);
  float* const m = products.floats(POINTS * (tiles * PANEL + LANES));
  for (int64_t t = 0; t < tiles; ++t) transform_input(source, tiling, first + t, v + t * row, matrix);
  for (int64_t panel = 0; panel < parts(output.shape.channels, PANEL); ++panel)
    panel_of_tiles(tiling, first, tiles, v, row, matrix, transformed, depth, panel, m, output);
}

constexpr int64_t SUB_BLOCK = 98;  // tiles whose 36 products of a panel stay in a core's own cache

template <class Source>
void convolve(const Source& source, const float* transformed, const Output& output, Blocks blocks, int threads) {
  static thread_local Scratch shared_values;
  const Tiling tiling(source.shape);
  const int64_t depth = source.shape.channels, row = row_length(depth);
  const int64_t panels = parts(output.shape.channels, PANEL);
  const int64_t count = parts(tiling.count, blocks.tiles);
  const auto begin = [&](int64_t block) { return tiling.count * block / count; };
  if (!blocks.shared) {
    parallel(count, threads, [&](int64_t block) {
      block_of_tiles(source, tiling, begin(block), begin(block + 1) - begin(block), transformed, output);
    });
    return;
  }
  for (int64_t block = 0; block < count; ++block) {
    const int64_t first = begin(block), tiles = begin(block + 1) - first, matrix = tiles * row + LANES;
    float* const v = shared_values.floats(POINTS * matrix);
    parallel(tiles, threads,
             [&](int64_t t) { transform_input(source, tiling, first + t, v + t * row, matrix); });
    const int64_t subs = parts(tiles, SUB_BLOCK);
    parallel(panels * subs, threads, [&](int64_t task) {
      static thread_local Scratch products;
      const int64_t panel = task / subs, sub = task % subs;
      const int64_t from = tiles * sub / subs, to = tiles * (sub + 1) / subs;
      float* const m = products.floats(POINTS * ((to - from) * PANEL + LANES));
      panel_of_tiles(tiling, first + from, to - from, v + from * row, row, matrix, transformed, depth, panel, m, output);
    });
  }
}

// The gradients of weights [out][3][3][in] and bias. In an order of additions that depends on the shape alone.
template <class Source>
void weight_gradient(const Map& input, const Source& gradient, float* weights, float* bias, int64_t block_tiles,
                     int threads) {
  static thread_local Scratch shared_values, shared_gradients, shared_sums;
  const Tiling tiling(input.shape);
  const int64_t in = input.shape.channels, out = gradient.shape.channels;
  const int64_t row = row_length(in), gradient_row = row_length(out), width = rounded_up(in, LANES);
  const int64_t count = parts(tiling.count, block_tiles);
  float* const sums = shared_sums.floats(POINTS * out * width + rounded_up(out, LANES));
  float* const bias_sums = sums + POINTS * out * width;
  std::memset(bias_sums, 0, rounded_up(out, LANES) * sizeof(float));
  const int64_t groups = parts(out, 9 * ROWS);
  for (int64_t block = 0; block < count; ++block) {
    const int64_t first = tiling.count * block / count, tiles = tiling.count * (block + 1) / count - first;
    const int64_t matrix = tiles * row + LANES, gradient_matrix = tiles * gradient_row + LANES;
    float* const v = shared_values.floats(POINTS * matrix);
    float* const z = shared_gradients.floats(POINTS * gradient_matrix);
    parallel(tiles, threads, [&](int64_t t) {
      transform_input(input, tiling, first + t, v + t * row, matrix);
      transform_gradient(gradient, tiling, first + t, z + t * gradient_row, gradient_matrix);
    });
    parallel(POINTS * groups + 1, threads, [&](int64_t task) {
      if (task == POINTS * groups) {
        // At the point (1, 1) the transform is the sum over the tile.
        const float* const total = z + (WINDOW + 1) * gradient_matrix;
        for (int64_t t = 0; t < tiles; ++t)
          for (int64_t k = 0; k < out; k += LANES)
            store(bias_sums + k, load(bias_sums + k) + load(total + t * gradient_row + k));
        return;
      }
      const int64_t p = task / groups, group = task % groups;
      const int64_t from = out * group / groups, rows = out * (group + 1) / groups - from;
      for (int64_t c = 0; c < in; c += PANEL) {
        const int vectors = in - c > LANES ? 2 : 1;
        const float* const left = z + p * gradient_matrix + from;
        const float* const right = v + p * matrix + c;
        float* const to = sums + (p * out + from) * width + c;
        if (block == 0) {
          product<false>(rows, vectors, left, 1, gradient_row, right, row, to, width, tiles);
        } else {
          product<true>(rows, vectors, left, 1, gradient_row, right, row, to, width, tiles);
        }
      }
    });
  }
  parallel(out, threads, [&](int64_t k) {
    for (int64_t c = 0; c < in; c += LANES) {
      const int lanes = static_cast<int>(in - c < LANES ? in - c : LANES);
      vec u[POINTS], g[9];
      for (int p = 0; p < POINTS; ++p) u[p] = load(sums + (p * out + k) * width + c);
      both_sides<WINDOW, 3>(u, g, weight_gradient_transform);
      for (int i = 0; i < 9; ++i) store_some(weights + (k * 9 + i) * in + c, g[i], lanes);
    }
  });
  std::memcpy(bias, bias_sums, out * sizeof(float));
}

}  // namespace verydeep

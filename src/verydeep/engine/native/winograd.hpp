// 3x3 convolutions with stride 1 and padding 1, and the gradients of their inputs and weights, by F(4x4, 3x3).
//
// A block of tiles is transformed to 36 matrices of tiles x channels. Each matrix is multiplied by the weights of its point,
// one panel of output channels after another, and the 36 products are transformed back while they are in the cache.
#pragma once

#include "weights.hpp"

namespace verydeep {

// Computes the 36 products of the values of some tiles with a panel of weights.
//   ahead(p): the memory to prefetch during the product at point p.
template <bool ADD, class Ahead>
inline void multiply(const TilesAtPoints& tiles, const float* values, int64_t row, int64_t matrix,
                     const float* weights, int64_t depth, int vectors, float* products, int64_t product_matrix,
                     const Ahead& ahead) {
  const Timed timed(PRODUCTS);
  for (int p = 0; p < POINTS; ++p) {
    const auto [from, to] = tiles(p);
    const Sums<ADD> sums{products + p * product_matrix + from * PANEL, PANEL};
    product(to - from, vectors, values + p * matrix + from * row, row, 1, weights + p * weight_matrix(depth), PANEL,
            sums, depth, ahead(p));
  }
}

// Transforms the 36 products of some tiles with a panel to the output.
inline void finish(const Tiling& tiling, int64_t first, int64_t tiles, Channels panel, const float* products,
                   int64_t product_matrix, const Output& output) {
  const Timed timed(OUTPUTS);
  for (int64_t t = 0; t < tiles; ++t) {
    const auto [n, y, x, low, narrow] = tiling.tile(first + t);
    for (int64_t c = panel.first; c < panel.end; c += LANES) {
      const int lanes = static_cast<int>(panel.end - c < LANES ? panel.end - c : LANES);
      const float* const from = products + t * PANEL + c - panel.first;
      vec square[TILE * TILE];
      const auto read = [&](int p) { return load(from + p * product_matrix); };
      const auto write = [&](int i, vec v) { square[i] = v; };
      if (low || narrow) {
        both_sides<WINDOW, TILE>(low ? short_output_transform : output_transform,
                                 narrow ? short_output_transform : output_transform, read, write);
      } else {
        both_sides<WINDOW, TILE>(output_transform, read, write);
      }
      if (lanes == LANES) {
        output.put<TILE>(square, n, y, x, c, LANES);
      } else {
        output.put<TILE>(square, n, y, x, c, lanes);
      }
    }
  }
  finish_streams();
}

// Floats from the products of one point to those of the next, for some tiles.
inline int64_t products_length(int64_t tiles) { return tiles * PANEL + LANES; }

// Transforms some channels of some tiles to values[point][tile][channel].
template <class Source>
inline void transform_inputs(const Source& source, const Tiling& tiling, int64_t first, int64_t tiles,
                             Channels channels, float* values, int64_t row, int64_t matrix) {
  const Timed timed(VALUES);
  for (int64_t t = 0; t < tiles; ++t) transform_input(source, tiling, first + t, channels, values + t * row, matrix);
}

// Computes all output channels of some tiles from the transformed weights, with this thread's scratch; prefetches `next`.
template <class Source>
void block_of_tiles(const Source& source, const Tiling& tiling, int64_t first, int64_t tiles, const Weights& weights,
                    const float* transformed, const Output& output, Memory next) {
  static thread_local Scratch values, products;
  const int64_t depth = source.shape.channels, row = row_length(depth), matrix = tiles * row + LANES;
  const int64_t length = products_length(tiles), groups = parts(tiles, ROWS);
  const TilesAtPoints at_points = tiling.at_points(first, tiles);
  const int64_t piece = next.floats / (weights.panels() * POINTS * groups);
  float* const v = values.floats(POINTS * matrix);
  float* const m = products.floats(POINTS * length);
  transform_inputs(source, tiling, first, tiles, {0, depth}, v, row, matrix);
  for (int64_t number = 0; number < weights.panels(); ++number) {
    const Channels panel = weights.panel(number);
    const float* const w = transformed + number * POINTS * weight_matrix(depth);
    multiply<false>(at_points, v, row, matrix, w, depth, panel.count() > LANES ? 2 : 1, m, length, [&](int p) {
      return Streams{w + (p + 1) * weight_matrix(depth), v + (p + 1) % POINTS * matrix,
                     next.begin + (number * POINTS + p) * groups * piece, parts(PANEL, groups),
                     parts(tiles * row, groups * depth), piece};
    });
    finish(tiling, first, tiles, panel, m, length, output);
  }
}

// A block of tiles that all threads share, transformed in chunks of channels.
struct SharedBlock {
  const Tiling& tiling;
  int64_t first, tiles, chunks, row;
  const float* values;  // [chunk][point][tile][channel]

  int64_t matrix() const { return tiles * row + LANES; }
  Channels chunk(int64_t number) const {
    const int64_t depth = tiling.shape.channels, vectors = parts(depth, LANES);
    const int64_t end = vectors * (number + 1) / chunks * LANES;
    return {vectors * number / chunks * LANES, end < depth ? end : depth};
  }
};

constexpr int64_t SUB_BLOCK = 98;  // tiles whose 36 products with a panel stay in a core's own cache
constexpr int64_t DEPTHS = 128;    // input channels for which a panel's transformed weights do

// Computes a panel of output channels for the sub-blocks [from, to) of the `subs` in a block, with this thread's scratch.
// Meanwhile it prefetches as many weights as a panel has, beginning at `next`.
inline void panel_of_block(const SharedBlock& block, const Weights& weights, int64_t number, int64_t from, int64_t to,
                           int64_t subs, const float* next, const Output& output) {
  static thread_local Scratch transformed, products;
  const auto begin = [&](int64_t sub) { return block.tiles * sub / subs; };
  const int64_t length = products_length(parts(block.tiles, subs));
  const Channels panel = weights.panel(number);
  const int vectors = panel.count() > LANES ? 2 : 1;
  const int64_t asked = parts(PANEL * TAPS * weights.in, block.chunks * (to - from) * POINTS);  // floats per product
  float* const w = transformed.floats(POINTS * weight_matrix(block.row));
  float* const m = products.floats((to - from) * POINTS * length);
  for (int64_t chunk = 0; chunk < block.chunks; ++chunk) {
    const Channels depths = block.chunk(chunk);
    const int64_t depth = depths.count();
    transform_weights(weights, panel, depths, w);
    for (int64_t sub = from; sub < to; ++sub) {
      const int64_t tiles = begin(sub + 1) - begin(sub);
      const float* const v = block.values + chunk * POINTS * block.matrix() + begin(sub) * block.row;
      float* const sums = m + (sub - from) * POINTS * length;
      const TilesAtPoints at_points = block.tiling.at_points(block.first + begin(sub), tiles);
      const int64_t steps = parts(at_points.fewest(), ROWS) * depth;  // of the shortest product
      const auto ahead = [&](int p) {
        const int64_t part = (chunk * (to - from) + sub - from) * POINTS + p;
        return Streams{v + (p + 1) % POINTS * block.matrix(), next + part * asked, nullptr,
                       parts(tiles * block.row, steps), parts(asked, steps), 0};
      };
      if (chunk == 0) {
        multiply<false>(at_points, v, block.row, block.matrix(), w, depth, vectors, sums, length, ahead);
      } else {
        multiply<true>(at_points, v, block.row, block.matrix(), w, depth, vectors, sums, length, ahead);
      }
    }
  }
  for (int64_t sub = from; sub < to; ++sub)
    finish(block.tiling, block.first + begin(sub), begin(sub + 1) - begin(sub), panel,
           m + (sub - from) * POINTS * length, length, output);
}

// Computes all output channels of some tiles on all threads, which share the transforms, then the panels of output
// channels.
template <class Source>
void shared_block(const Source& source, const Tiling& tiling, int64_t first, int64_t tiles, const Weights& weights,
                  const Output& output, int threads, Memory following) {
  static thread_local Scratch values;
  const int64_t depth = source.shape.channels, chunks = parts(depth, DEPTHS);
  SharedBlock block{tiling, first, tiles, chunks, row_length(parts(parts(depth, LANES), chunks) * LANES), nullptr};
  float* const v = values.floats(chunks * POINTS * block.matrix());
  block.values = v;
  parallel(tiles, threads, [&](int64_t t) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      transform_inputs(source, tiling, first + t, 1, block.chunk(chunk),
                       v + chunk * POINTS * block.matrix() + t * block.row, block.row, block.matrix());
  });
  const int64_t subs = parts(tiles, SUB_BLOCK);
  const int64_t panels = weights.panels(), size = PANEL * TAPS * weights.in;
  const int64_t shares = panels < 2 * threads ? subs : 1;  // per panel; several if there are few panels
  // What a thread reads after a panel: the next panel, or its share of the next layer. The panels of rotated weights are
  // columns, which are not contiguous; for those this is only a guess.
  const auto next = [&](int64_t panel) {
    const Worker worker(panel, panels, threads);
    if (worker.last && following.floats > 0) return following.share(worker.thread, threads).begin;
    return weights.weights + (panel + 1) % panels * size;
  };
  parallel(panels * shares, threads, [&](int64_t task) {
    const int64_t panel = task / shares, share = task % shares;
    const int64_t from = subs * share / shares, to = subs * (share + 1) / shares;
    panel_of_block(block, weights, panel, from, to, subs, next(panel), output);
  });
}

// How a convolution is divided into blocks.
struct Blocks {
  int64_t tiles;  // per block
  bool shared;    // all threads on one block, or one block per thread
};

template <class Source>
void convolve(const Source& source, const Weights& weights, const Output& output, Blocks blocks, int threads,
              Memory following = {}) {
  static thread_local Scratch all_weights;
  const Tiling tiling(source.shape, true);
  const int64_t count = parts(tiling.count, blocks.tiles);
  const auto begin = [&](int64_t block) { return tiling.count * block / count; };
  if (blocks.shared) {
    for (int64_t block = 0; block < count; ++block)
      shared_block(source, tiling, begin(block), begin(block + 1) - begin(block), weights, output, threads,
                   following);
    return;
  }
  const float* const transformed = transform_weights(weights, all_weights, threads);
  parallel(count, threads, [&](int64_t block) {
    const int64_t first = begin(block), end = begin(block + 1);
    // What this thread reads next: the part of the next block's input that this block has not read.
    const auto next = [&] {
      const Worker worker(block, count, threads);
      if (worker.last) return Memory{};
      const Tile tile = tiling.tile(end);
      return source.memory(tile.n, tile.y + 1, tile.x, (begin(block + 2) - end) * TILE * TILE);
    };
    block_of_tiles(source, tiling, first, end - first, weights, transformed, output, next());
  });
}

// The gradients of weights [out][in][3][3] and bias. The order of additions depends only on the shape.
template <class Source>
void weight_gradient(const Map& input, const Source& gradient, float* weights, float* bias, int64_t block_tiles,
                     int threads) {
  static thread_local Scratch shared_values, shared_gradients, shared_sums;
  const Tiling tiling(input.shape, false);
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
      transform_input(input, tiling, first + t, {0, in}, v + t * row, matrix);
      transform_gradient(gradient, tiling, first + t, z + t * gradient_row, gradient_matrix);
    });
    parallel(POINTS * groups + 1, threads, [&](int64_t task) {
      if (task == POINTS * groups) {
        // At the point (1, 1) the transformed gradient is the sum over the tile.
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
          product(rows, vectors, left, 1, gradient_row, right, row, Sums<false>{to, width}, tiles);
        } else {
          product(rows, vectors, left, 1, gradient_row, right, row, Sums<true>{to, width}, tiles);
        }
      }
    });
  }
  parallel(out, threads, [&](int64_t k) {
    for (int64_t c = 0; c < in; c += LANES) {
      const int lanes = static_cast<int>(in - c < LANES ? in - c : LANES);
      vec taps[TAPS];
      both_sides<WINDOW, 3>(
          weight_gradient_transform, [&](int p) { return load(sums + (p * out + k) * width + c); },
          [&](int i, vec g) { taps[i] = g; });
      store_taps(weights + TAPS * (k * in + c), lanes, taps);
    }
  });
  std::memcpy(bias, bias_sums, out * sizeof(float));
}

}  // namespace verydeep

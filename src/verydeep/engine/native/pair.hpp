// conv1_1 and conv1_2 fused: the map between them is the largest of a net, and here it never exists as a whole.
//
// Bands of its rows are computed, stay in the cache, and are used by the second convolution at once. Rows at the border
// of two bands are computed for both.
#pragma once

#include "direct.hpp"
#include "winograd.hpp"

namespace verydeep {

// Some rows of a map; 0 outside the map.
struct Band {
  const float* x;
  Shape shape;        // of the whole map
  int64_t first_row;  // row of the map that x begins with

  auto window(int64_t, int64_t y, int64_t x_) const { return Map{x, shape}.window(0, y - first_row, x_); }

  vec at(int64_t, int64_t y, int64_t x_, int64_t c, int lanes) const {
    return load_some(x + ((y - first_row) * shape.width + x_) * shape.channels + c, lanes);
  }
};

constexpr int64_t BAND = 4;  // rows of tiles: 18 rows of the map between the layers give 16 rows of the output

// `output` is that of the second convolution; a ReLU follows the first one.
inline void convolve_twice(const Map& image, const float* weights, const float* bias, const Weights& second,
                           const Output& output, int64_t block_tiles, int threads) {
  static thread_local Scratch packing, all_weights;
  const int64_t between = second.in;
  const Shape map{image.shape.images, image.shape.height, image.shape.width, between};
  const float* const packed = pack_weights(weights, image.shape.channels, between, packing);
  const float* const transformed = transform_weights(second, all_weights, threads);
  const Tiling tiling(map, false);
  const int64_t bands = parts(tiling.rows, BAND);
  parallel(map.images * bands, threads, [&](int64_t task) {
    static thread_local Scratch rows;
    const int64_t n = task / bands, band = task % bands;
    const int64_t top = tiling.rows * band / bands, bottom = tiling.rows * (band + 1) / bands;
    const int64_t first = top == 0 ? 0 : top * TILE - 1;
    const int64_t end = bottom * TILE + 1 < map.height ? bottom * TILE + 1 : map.height;
    float* const between_rows = rows.floats((BAND * TILE + 2) * map.width * between);
    const Output to{between_rows, nullptr, bias, true, false, {1, end - first, map.width, between}};
    {
      const Timed timed(FIRST_LAYER);
      for (int64_t y = first; y < end; ++y) convolve_rows(image, packed, to, n, y, 1, 0, y - first);
    }
    const Band source{between_rows, map, first};
    const int64_t begin = (n * tiling.rows + top) * tiling.columns, tiles = (bottom - top) * tiling.columns;
    const int64_t blocks = parts(tiles, block_tiles);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t from = tiles * block / blocks, count = tiles * (block + 1) / blocks - from;
      block_of_tiles(source, tiling, begin + from, count, second, transformed, output, {});
    }
  });
}

}  // namespace verydeep

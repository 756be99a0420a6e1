// A map as tiles of 4 x 4 outputs, and their values at the 36 points.
#pragma once

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

// Some of the channels of a map.
struct Channels {
  int64_t first, end;

  int64_t count() const { return end - first; }
};

// Rows of transformed values: a vector more than the channels, or all rows of a matrix would compete for the same
// places of the cache.
inline int64_t row_length(int64_t channels) { return rounded_up(channels, LANES) + LANES; }

// Some channels of a SIDE x SIDE square of a map whose first pixel is at (y, x), 0 outside of the map: for each vector of
// them transform(read, write), with read(i) its i-th pixel, row by row, and write(p, value) to values[point][channel].
template <int SIDE, class Source, class Transform>
void transform_square(const Source& source, int64_t n, int64_t y, int64_t x, Channels channels, float* values,
                      int64_t matrix, Transform transform) {
  const Shape& s = source.shape;
  const bool inside = y >= 0 && x >= 0 && y + SIDE <= s.height && x + SIDE <= s.width;
  const auto pixels = source.window(n, y, x);
  for (int64_t c = channels.first; c < channels.end; c += LANES, values += LANES) {
    const int lanes = static_cast<int>(channels.end - c < LANES ? channels.end - c : LANES);
    const auto write = [&](int p, vec v) { store(values + p * matrix, v); };
    if (inside && lanes == LANES) {
      transform([&](int i) { return pixels(i / SIDE, i % SIDE, c); }, write);
      continue;
    }
    vec d[SIDE * SIDE];
    for (int i = 0; i < SIDE; ++i)
      for (int j = 0; j < SIDE; ++j) {
        const bool there = y + i >= 0 && y + i < s.height && x + j >= 0 && x + j < s.width;
        d[i * SIDE + j] = there ? source.at(n, y + i, x + j, c, lanes) : vec{};
      }
    transform([&](int i) { return d[i]; }, write);
  }
}

// Some channels of one tile of the input to values[point][tile][channel].
template <class Source>
void transform_input(const Source& source, const Tiling& tiling, int64_t tile, Channels channels, float* values,
                     int64_t matrix) {
  const auto [n, y, x] = tiling.place(tile);
  transform_square<WINDOW>(source, n, y - 1, x - 1, channels, values, matrix, [](auto read, auto write) {
    both_sides<WINDOW, WINDOW>(input_transform, read, write);
  });
}

// One tile of the output's gradient, all channels, to values[point][tile][channel].
template <class Source>
void transform_gradient(const Source& source, const Tiling& tiling, int64_t tile, float* values, int64_t matrix) {
  const auto [n, y, x] = tiling.place(tile);
  transform_square<TILE>(source, n, y, x, {0, source.shape.channels}, values, matrix, [](auto read, auto write) {
    both_sides<TILE, WINDOW>(gradient_transform, read, write);
  });
}

}  // namespace verydeep

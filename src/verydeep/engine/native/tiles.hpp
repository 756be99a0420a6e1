// A map as tiles of 4 x 4 outputs, and the transformed values of the tiles at the 36 points.
#pragma once

#include "tensors.hpp"
#include "transforms.hpp"

namespace verydeep {

// A tile's image and first output, and whether it has only SHORT outputs down (low) or across (narrow).
struct Tile {
  int64_t n, y, x;
  bool low, narrow;
};

// The tiles of a block that have a value at each point, numbered from the first of the block.
struct TilesAtPoints {
  struct Range {
    int64_t from, to;

    int64_t count() const { return to - from; }
  };
  Range ranges[2][2];  // by whether low tiles have the point, and whether narrow ones do

  // The smallest number of tiles that have a point, among points that any tile has.
  int64_t fewest() const {
    int64_t count = ranges[1][1].count();
    for (const auto& pair : ranges)
      for (const Range& range : pair) count = range.count() > 0 && range.count() < count ? range.count() : count;
    return count;
  }
  const Range& operator()(int point) const { return ranges[has_short(point / WINDOW)][has_short(point % WINDOW)]; }
};

// The tiles of all images, in an order in which those that have a value at a point are consecutive: low ones, full ones,
// narrow ones, then those that are both low and narrow; within each kind row by row.
struct Tiling {
  Shape shape;
  int64_t rows, columns, count;

  // `shorten`: whether the last tiles along a side may be short, if that is enough.
  Tiling(Shape s, bool shorten)
      : shape(s),
        rows(parts(s.height, TILE)),
        columns(parts(s.width, TILE)),
        count(s.images * rows * columns),
        low_(shorten && is_short(s.height)),
        narrow_(shorten && is_short(s.width)),
        full_begin_(low_ * s.images * (columns - narrow_)),
        full_end_(s.images * rows * (columns - narrow_)) {}

  Tile tile(int64_t number) const {
    VERYDEEP_EXPECT(number >= 0 && number < count);
    const int64_t down = rows - low_, across = columns - narrow_;
    if (number < full_begin_) return {number / across, down * TILE, number % across * TILE, true, false};
    if (number < full_end_) {
      number -= full_begin_;
      return {number / (down * across), number / across % down * TILE, number % across * TILE, false, false};
    }
    number -= full_end_;
    if (number < shape.images * down) return {number / down, number % down * TILE, across * TILE, false, true};
    return {number - shape.images * down, down * TILE, across * TILE, true, true};
  }

  // Those of the tiles [first, first + tiles) that have a value at each point.
  TilesAtPoints at_points(int64_t first, int64_t tiles) const {
    const auto inside = [&](int64_t number) {
      return number < first ? 0 : number < first + tiles ? number - first : tiles;
    };
    const int64_t begin = inside(full_begin_), end = inside(full_end_);
    const int64_t narrow_end = inside(full_end_ + narrow_ * shape.images * (rows - low_));
    return {{{{begin, end}, {begin, narrow_end}}, {{0, end}, {0, tiles}}}};
  }

 private:
  int64_t low_, narrow_, full_begin_, full_end_;  // the first two are 0 or 1

  static bool is_short(int64_t side) { return side % TILE != 0 && side % TILE <= SHORT; }
};

// Some of the channels of a map.
struct Channels {
  int64_t first, end;

  int64_t count() const { return end - first; }
};

// Length of a row of transformed values: one vector more than the channels, or all rows of a matrix would compete for the
// same cache sets.
inline int64_t row_length(int64_t channels) { return rounded_up(channels, LANES) + LANES; }

// Transforms some channels of the SIDE x SIDE square of a map whose first pixel is at (y, x); the map is 0 outside. Calls
// transform(read, write) for each vector of channels: read(i) gives its i-th pixel, row by row, and write(p, value) stores
// to values[point][channel].
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

// Transforms some channels of one short tile of the input to values[point][tile][channel]. Not inlined, since short tiles
// are few.
template <class Source>
__attribute__((noinline)) void transform_short_input(const Source& source, Tile tile, Channels channels,
                                                     float* values, int64_t matrix) {
  const auto along = [](bool is_short) {
    return [is_short](const vec* d, vec* v) { is_short ? short_input_transform(d, v) : input_transform(d, v); };
  };
  const auto transform = [&](auto read, auto write) {
    both_sides<WINDOW, WINDOW>(along(tile.low), along(tile.narrow), read, write);
  };
  transform_square<WINDOW>(source, tile.n, tile.y - 1, tile.x - 1, channels, values, matrix, transform);
}

// Transforms some channels of one tile of the input to values[point][tile][channel].
template <class Source>
void transform_input(const Source& source, const Tiling& tiling, int64_t number, Channels channels, float* values,
                     int64_t matrix) {
  const Tile tile = tiling.tile(number);
  if (tile.low || tile.narrow) return transform_short_input(source, tile, channels, values, matrix);
  const auto transform = [](auto read, auto write) {
    both_sides<WINDOW, WINDOW>(input_transform, read, write);
  };
  transform_square<WINDOW>(source, tile.n, tile.y - 1, tile.x - 1, channels, values, matrix, transform);
}

// Transforms all channels of one tile of the output's gradient to values[point][tile][channel].
template <class Source>
void transform_gradient(const Source& source, const Tiling& tiling, int64_t number, float* values, int64_t matrix) {
  const Tile tile = tiling.tile(number);
  const Channels all{0, source.shape.channels};
  transform_square<TILE>(source, tile.n, tile.y, tile.x, all, values, matrix, [](auto read, auto write) {
    both_sides<TILE, WINDOW>(gradient_transform, read, write);
  });
}

}  // namespace verydeep

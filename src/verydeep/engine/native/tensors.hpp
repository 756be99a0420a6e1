// The tensors that a convolution reads and writes: they have channels last, and are read as vectors of channels at a pixel.
#pragma once

#include "vectors.hpp"

namespace verydeep {

struct Shape {
  int64_t images, height, width, channels;
};

// Memory that will be read soon.
struct Memory {
  const float* begin = nullptr;
  int64_t floats = 0;

  Memory share(int64_t thread, int threads) const { return {begin + floats * thread / threads, floats / threads}; }
};

// Pixels below and to the right of a first one, all inside the map.
struct Window {
  int64_t at, row, pixel;  // in floats

  Window(const Shape& s, int64_t n, int64_t y, int64_t x)
      : at(((n * s.height + y) * s.width + x) * s.channels), row(s.width * s.channels), pixel(s.channels) {}
  int64_t operator()(int i, int j, int64_t c) const { return at + i * row + j * pixel + c; }
};

// An image or feature map; 0 outside.
struct Map {
  const float* x;
  Shape shape;

  // A reader of pixels: it returns the vector from channel c on of the pixel i below and j to the right of (y, x).
  auto window(int64_t n, int64_t y, int64_t x_) const {
    return [from = Window(shape, n, y, x_), x = x](int i, int j, int64_t c) { return load(x + from(i, j, c)); };
  }

  // The memory of `pixels` pixels, beginning with this one.
  Memory memory(int64_t n, int64_t y, int64_t x_, int64_t pixels) const {
    return {x + Window(shape, n, y, x_).at, pixels * shape.channels};
  }

  vec at(int64_t n, int64_t y, int64_t x_, int64_t c, int lanes) const {
    return load_some(x + ((n * shape.height + y) * shape.width + x_) * shape.channels + c, lanes);
  }
};

// The gradient at the convolution's output, from the gradient after the ReLU: 0 where the ReLU's output was 0.
struct RectifiedGradient {
  const float* gradient;
  const float* output;
  Shape shape;

  auto window(int64_t n, int64_t y, int64_t x) const {
    return [from = Window(shape, n, y, x), gradient = gradient, output = output](int i, int j, int64_t c) {
      const int64_t at = from(i, j, c);
      const vec g = load(gradient + at);
      return load(output + at) > 0.0f ? g : vec{};
    };
  }

  Memory memory(int64_t n, int64_t y, int64_t x, int64_t pixels) const {
    return Map{gradient, shape}.memory(n, y, x, pixels);
  }

  vec at(int64_t n, int64_t y, int64_t x, int64_t c, int lanes) const {
    const int64_t at = ((n * shape.height + y) * shape.width + x) * shape.channels + c;
    const vec g = load_some(gradient + at, lanes);
    return load_some(output + at, lanes) > 0.0f ? g : vec{};
  }
};

// The winner if none of the four pixels had a positive output.
constexpr uint8_t NONE = 4;

// The gradient at the convolution's output, from the gradient after ReLU and 2 x 2 max-pooling: it goes to the winners.
struct PooledGradient {
  const float* gradient;
  const uint8_t* winner;  // 0 to 3, row by row, or NONE
  Shape shape;            // before the pooling

  auto window(int64_t n, int64_t y, int64_t x) const {
    return [n, y, x, this](int i, int j, int64_t c) { return at(n, y + i, x + j, c, LANES); };
  }

  Memory memory(int64_t n, int64_t y, int64_t x, int64_t pixels) const {
    const Shape pooled{shape.images, shape.height / 2, shape.width / 2, shape.channels};
    return Map{gradient, pooled}.memory(n, y / 2, x / 2, pixels / 4);
  }

  vec at(int64_t n, int64_t y, int64_t x, int64_t c, int lanes) const {
    const int64_t height = shape.height / 2, width = shape.width / 2;
    if (y / 2 >= height || x / 2 >= width) return vec{};
    const int64_t at = ((n * height + y / 2) * width + x / 2) * shape.channels + c;
    const ivec won = __builtin_convertvector(load_bytes(winner + at, lanes), ivec);
    return won == static_cast<int32_t>(y % 2 * 2 + x % 2) ? load_some(gradient + at, lanes) : vec{};
  }
};

// Where outputs are written, optionally after adding the bias, ReLU and 2 x 2 max-pooling.
struct Output {
  float* y;
  uint8_t* winner;    // for the backward pass, or null
  const float* bias;  // or null
  bool rectify, pool;
  Shape shape;  // before the pooling
  bool streams = false;  // whether to use non-temporal stores, which need finish_streams() at the end

  // Writes a square of outputs, the first one at (y0, x0), both even; outputs outside the map are left out.
  template <int SIDE>
  void put(const vec* square, int64_t n, int64_t y0, int64_t x0, int64_t c, int lanes) const {
    const vec b = bias == nullptr ? vec{} : load_some(bias + c, lanes);
    if (!pool && y0 + SIDE <= shape.height && x0 + SIDE <= shape.width && lanes == LANES) {
      float* const first = at(n, y0, x0, c);
      const int64_t row = shape.width * shape.channels;
      const auto all_of_it = [&](auto write) {
#pragma GCC unroll 4
        for (int i = 0; i < SIDE; ++i)
#pragma GCC unroll 4
          for (int j = 0; j < SIDE; ++j)
            write(first + i * row + j * shape.channels, finished(square[i * SIDE + j] + b));
      };
      if (past_caches()) {
        all_of_it(stream);
      } else {
        all_of_it(store);
      }
      return;
    }
    if (!pool) {
      for (int i = 0; i < SIDE && y0 + i < shape.height; ++i)
        for (int j = 0; j < SIDE && x0 + j < shape.width; ++j)
          store_some(at(n, y0 + i, x0 + j, c), finished(square[i * SIDE + j] + b), lanes);
      return;
    }
    put_pooled<SIDE>(square, n, y0, x0, c, lanes, b);
  }

  vec finished(vec v) const { return rectify ? (v < 0.0f ? vec{} : v) : v; }

  // Whether to use non-temporal stores: vectors are whole or half cache lines, which need not be fetched to be overwritten.
  bool past_caches() const {
    return streams && reinterpret_cast<uintptr_t>(y) % sizeof(vec) == 0 && shape.channels % LANES == 0;
  }

 private:

  float* at(int64_t n, int64_t y_, int64_t x, int64_t c) const {
    return y + ((n * shape.height + y_) * shape.width + x) * shape.channels + c;
  }

  template <int SIDE>
  void put_pooled(const vec* square, int64_t n, int64_t y0, int64_t x0, int64_t c, int lanes, vec b) const {
    const int64_t height = shape.height / 2, width = shape.width / 2;
    for (int i = 0; i < SIDE && (y0 + i) / 2 < height; i += 2)
      for (int j = 0; j < SIDE && (x0 + j) / 2 < width; j += 2) {
        const int64_t at = ((n * height + (y0 + i) / 2) * width + (x0 + j) / 2) * shape.channels + c;
        const vec* corner = square + i * SIDE + j;
        const vec four[] = {corner[0], corner[1], corner[SIDE], corner[SIDE + 1]};
        vec most = four[0];
        ivec won = {};
        for (int k = 1; k < 4; ++k) {
          const ivec greater = (four[k] > most) | (four[k] != four[k]);  // keeps nan
          most = greater ? four[k] : most;
          won = greater ? k - ivec{} : won;
        }
        most = finished(most + b);
        past_caches() && lanes == LANES ? stream(y + at, most) : store_some(y + at, most, lanes);
        if (winner != nullptr) {
          won = most > 0.0f ? won : NONE - ivec{};
          store_bytes(winner + at, __builtin_convertvector(won, bytes), lanes);
        }
      }
  }
};

}  // namespace verydeep

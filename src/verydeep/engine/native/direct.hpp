// 3x3 convolutions with few input channels, such as conv1_1: there is too little depth for the transforms to pay off.
//
// The inputs of each output of a row are written side by side, as a matrix that is multiplied by the weights (im2col).
#pragma once

#include <limits>

#include "parallel.hpp"
#include "product.hpp"
#include "taps.hpp"
#include "tensors.hpp"

namespace verydeep {

// Writes for each pixel of row y its 9 x channels inputs, row by row, then a 1 (for the gradient of the bias).
template <int CHANNELS>
inline void write_columns(const Map& input, int64_t n, int64_t y, float* columns) {
  const Shape& s = input.shape;
  const int64_t channels = CHANNELS > 0 ? CHANNELS : s.channels, taps = TAPS * channels;
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t row = y + i - 1;
    const bool there = row >= 0 && row < s.height;
    const float* const from = input.x + (n * s.height + (there ? row : 0)) * s.width * channels;
    float* to = columns + i * 3 * channels;
    for (int64_t x = 0; x < s.width; ++x, to += taps + 1) {
      if (there && x > 0 && x + 1 < s.width) {
        std::memcpy(to, from + (x - 1) * channels, 3 * channels * sizeof(float));
        continue;
      }
      for (int64_t j = 0; j < 3; ++j)
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t column = x + j - 1;
          to[j * channels + c] = there && column >= 0 && column < s.width ? from[column * channels + c] : 0;
        }
    }
  }
  for (int64_t x = 0; x < s.width; ++x) columns[x * (taps + 1) + taps] = 1;
}

inline void write_columns(const Map& input, int64_t n, int64_t y, float* columns) {
  input.shape.channels == 3 ? write_columns<3>(input, n, y, columns) : write_columns<0>(input, n, y, columns);
}

// Offset of the weight of a column's i-th input in its output's row [in][3][3]; a column lists its inputs pixel by pixel.
inline int64_t weight_of_input(int64_t i, int64_t channels) { return i % channels * TAPS + i / channels; }

// Weights [out][in][3][3] to [panel][input of a column][PANEL].
inline const float* pack_weights(const float* weights, int64_t channels, int64_t out, Scratch& scratch) {
  const int64_t panels = parts(out, PANEL), taps = TAPS * channels;
  float* const packed = scratch.floats(panels * taps * PANEL);
  std::memset(packed, 0, panels * taps * PANEL * sizeof(float));
  for (int64_t k = 0; k < out; ++k)
    for (int64_t i = 0; i < taps; ++i)
      packed[(k / PANEL * taps + i) * PANEL + k % PANEL] = weights[k * taps + weight_of_input(i, channels)];
  return packed;
}

// A panel of channels of a row of outputs, as the sums of a product: they begin with the bias, and are rectified as they
// are written to the map.
//   WHOLE: whether the map has all channels of the panel.
template <bool WHOLE>
class Pixels {
 public:
  Pixels(const Output& output, int64_t n, int64_t y, int64_t channel)
      : to_(output.y + Window(output.shape, n, y, 0).at + channel),
        pixel_(output.shape.channels),
        streams_(output.past_caches()),
        least_(output.rectify ? vec{} : all(-std::numeric_limits<float>::infinity())) {
    for (int v = 0; v < 2; ++v) {
      const int64_t there = output.shape.channels - channel - v * LANES;
      lanes_[v] = static_cast<int>(there < 0 ? 0 : there < LANES ? there : LANES);
      bias_[v] = output.bias == nullptr ? vec{} : load_some(output.bias + channel + v * LANES, lanes_[v]);
    }
  }

  vec begin(int, int v) const { return bias_[v]; }
  void end(int m, int v, vec sum) const {
    float* const to = to_ + m * pixel_ + v * LANES;
    const vec y = sum < least_ ? least_ : sum;
    if (streams_) {
      stream(to, y);
    } else {
      store_some(to, y, WHOLE ? LANES : lanes_[v]);
    }
  }
  void on(int rows) { to_ += rows * pixel_; }

 private:
  float* to_;
  int64_t pixel_;
  bool streams_;
  vec least_, bias_[2];
  int lanes_[2];
};

// One row of outputs, or two if a pooling follows, from row y of image n, written to row y_to of image n_to.
inline void convolve_rows(const Map& input, const float* packed, const Output& output, int64_t n, int64_t y,
                          int64_t rows, int64_t n_to, int64_t y_to) {
  static thread_local Scratch columns, products;
  const Shape& s = input.shape;
  const int64_t taps = TAPS * s.channels, out = output.shape.channels, width = rounded_up(s.width, 2);
  float* const col = columns.floats(2 * s.width * (taps + 1));
  float* const sums = products.floats(2 * width * PANEL);
  for (int64_t i = 0; i < rows; ++i) write_columns(input, n, y + i, col + i * s.width * (taps + 1));
  for (int64_t panel = 0; panel < parts(out, PANEL); ++panel) {
    const int vectors = out - panel * PANEL > LANES ? 2 : 1;
    const auto multiply = [&](int64_t i, auto to) {
      product(s.width, vectors, col + i * s.width * (taps + 1), taps + 1, 1, packed + panel * taps * PANEL, PANEL, to,
              taps);
    };
    if (!output.pool) {
      for (int64_t i = 0; i < rows; ++i)
        if (out - panel * PANEL >= PANEL) {
          multiply(i, Pixels<true>(output, n_to, y_to + i, panel * PANEL));
        } else {
          multiply(i, Pixels<false>(output, n_to, y_to + i, panel * PANEL));
        }
      continue;
    }
    for (int64_t i = 0; i < rows; ++i) multiply(i, Sums<false>{sums + i * width * PANEL, PANEL});
    for (int v = 0; v < vectors; ++v) {
      const int64_t c = panel * PANEL + v * LANES;
      const int lanes = static_cast<int>(out - c < LANES ? out - c : LANES);
      const float* const at = sums + v * LANES;
      for (int64_t x = 0; x < s.width; x += 2) {
        const float* const corner = at + x * PANEL;
        const vec square[] = {load(corner), load(corner + PANEL), load(corner + width * PANEL),
                              load(corner + (width + 1) * PANEL)};
        output.put<2>(square, n_to, y_to, x, c, lanes);
      }
    }
  }
}

inline void convolve_directly(const Map& input, const float* weights, const Output& output, int threads) {
  static thread_local Scratch packing;
  const Shape& s = input.shape;
  const float* const packed = pack_weights(weights, s.channels, output.shape.channels, packing);
  const int64_t together = output.pool ? 2 : 1, steps = parts(s.height, together);
  parallel(s.images * steps, threads, [&](int64_t task) {
    const int64_t n = task / steps, y = task % steps * together;
    convolve_rows(input, packed, output, n, y, y + together <= s.height ? together : 1, n, y);
    finish_streams();
  });
}

// The gradients of weights [out][in][3][3] and bias, summed per image, then over the images in order.
template <class Source>
void weight_gradient_directly(const Map& input, const Source& gradient, float* weights, float* bias, int threads) {
  static thread_local Scratch shared_sums;
  const Shape& s = input.shape;
  const int64_t taps = TAPS * s.channels, out = gradient.shape.channels, panels = parts(out, PANEL);
  const int64_t size = (taps + 1) * panels * PANEL;
  float* const sums = shared_sums.floats(s.images * size);  // [image][tap][out]
  std::memset(sums, 0, s.images * size * sizeof(float));
  parallel(s.images, threads, [&](int64_t n) {
    static thread_local Scratch columns, gradients;
    float* const col = columns.floats(s.width * (taps + 1));
    float* const g = gradients.floats(s.width * panels * PANEL);
    std::memset(g, 0, s.width * panels * PANEL * sizeof(float));
    for (int64_t y = 0; y < s.height; ++y) {
      write_columns(input, n, y, col);
      for (int64_t x = 0; x < s.width; ++x)
        for (int64_t c = 0; c < out; c += LANES) {
          const int lanes = static_cast<int>(out - c < LANES ? out - c : LANES);
          store(g + x * panels * PANEL + c, gradient.at(n, y, x, c, lanes));
        }
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int vectors = out - panel * PANEL > LANES ? 2 : 1;
        product(taps + 1, vectors, col, 1, taps + 1, g + panel * PANEL, panels * PANEL,
                Sums<true>{sums + n * size + panel * PANEL, panels * PANEL}, s.width);
      }
    }
  });
  for (int64_t k = 0; k < out; ++k)
    for (int64_t i = 0; i <= taps; ++i) {
      float total = 0;
      for (int64_t n = 0; n < s.images; ++n) total += sums[n * size + i * panels * PANEL + k];
      (i < taps ? weights[k * taps + weight_of_input(i, s.channels)] : bias[k]) = total;
    }
}

}  // namespace verydeep

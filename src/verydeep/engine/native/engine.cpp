// What Python calls, through ctypes: plain functions of pointers and numbers, so that neither Python nor torch is
// needed to build this, nor a certain release of either to use it.
//
// This file is compiled three times, for AVX-512, for AVX2 and for any processor; see vectors.hpp.
// All tensors are float32 with channels last: images and maps [n][y][x][c], weights [out][3][3][in].

#include "program.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace verydeep;

// Memory of a map that is written next. It is mostly new, and the system hands it out, cleared, page by page.
template <class T>
inline T* in_large_pages(T* map, const Shape& s, bool pooled) {
  const int64_t pixels = pooled ? (s.height / 2) * (s.width / 2) : s.height * s.width;
  if (map != nullptr) use_large_pages(map, s.images * pixels * s.channels * sizeof(T));
  return map;
}

// Where a convolution's outputs go.
inline Output output(float* y, uint8_t* winner, const float* bias, bool rectify, bool pool, const Shape& shape) {
  return {in_large_pages(y, shape, pool), in_large_pages(winner, shape, pool), bias, rectify, pool, shape, true};
}

// The last two are null where torch uses GNU's OpenMP.
EXPORT void verydeep_use_pool(void* gomp_parallel, void* kmp_get_blocktime, void* kmp_set_blocktime) {
  pool = reinterpret_cast<Pool>(gomp_parallel);
  get_blocktime = reinterpret_cast<GetBlocktime>(kmp_get_blocktime);
  set_blocktime = reinterpret_cast<SetBlocktime>(kmp_set_blocktime);
}

// Whether the threads of the pool, where they wait for one another, go to sleep soon, since others use their cores.
EXPORT int verydeep_sleeps() { return waiting.sleeps(); }

EXPORT void verydeep_use_large_pages(void* memory, int64_t bytes) { use_large_pages(memory, bytes); }

EXPORT void verydeep_convolve(const float* x, const float* weights, const float* bias, float* y, uint8_t* winner,
                              int64_t images, int64_t height, int64_t width, int64_t in, int64_t out, int rectify,
                              int pool_, int64_t tiles, int shared, int threads) {
  const Output to = output(y, winner, bias, rectify != 0, pool_ != 0, {images, height, width, out});
  convolve(Map{x, {images, height, width, in}}, {weights, out, in, false}, to, {tiles, shared != 0}, threads);
}

// `output` is the convolution's after the ReLU, or null where `winner` says where the pooling's gradient goes, or where
// both are null `gradient` is taken as it is.
EXPORT void verydeep_input_gradient(const float* gradient, const float* output, const uint8_t* winner,
                                    const float* weights, float* x, int64_t images, int64_t height, int64_t width,
                                    int64_t in, int64_t out, int64_t tiles, int shared, int threads) {
  const Output to = ::output(x, nullptr, nullptr, false, false, {images, height, width, in});
  const Shape shape{images, height, width, out};
  const Weights rotated{weights, out, in, true};
  const Blocks blocks{tiles, shared != 0};
  if (winner != nullptr) {
    convolve(PooledGradient{gradient, winner, shape}, rotated, to, blocks, threads);
  } else if (output != nullptr) {
    convolve(RectifiedGradient{gradient, output, shape}, rotated, to, blocks, threads);
  } else {
    convolve(Map{gradient, shape}, rotated, to, blocks, threads);
  }
}

EXPORT void verydeep_weight_gradient(const float* x, const float* gradient, const float* output,
                                     const uint8_t* winner, float* weights, float* bias, int64_t images,
                                     int64_t height, int64_t width, int64_t in, int64_t out, int direct, int64_t tiles,
                                     int threads) {
  const Map input{x, {images, height, width, in}};
  const Shape shape{images, height, width, out};
  const auto from = [&](const auto& source) {
    if (direct) {
      weight_gradient_directly(input, source, weights, bias, threads);
    } else {
      weight_gradient(input, source, weights, bias, tiles, threads);
    }
  };
  if (winner != nullptr) {
    from(PooledGradient{gradient, winner, shape});
  } else if (output != nullptr) {
    from(RectifiedGradient{gradient, output, shape});
  } else {
    from(Map{gradient, shape});
  }
}

EXPORT void verydeep_convolve_directly(const float* x, const float* weights, const float* bias, float* y,
                                       uint8_t* winner, int64_t images, int64_t height, int64_t width, int64_t in,
                                       int64_t out, int rectify, int pool_, int threads) {
  const Output to = output(y, winner, bias, rectify != 0, pool_ != 0, {images, height, width, out});
  convolve_directly(Map{x, {images, height, width, in}}, weights, to, threads);
}

// `maps` is the workspace, or null for one that this thread keeps.
EXPORT void verydeep_run(const int64_t* table, int64_t calls, const float* const* parameters, const float* x, float* y,
                         int64_t outputs, float* maps, int64_t workspace, int threads) {
  static thread_local Scratch kept;
  use_large_pages(y, outputs * sizeof(float));
  if (maps == nullptr) {
    maps = kept.floats(workspace);
  } else {
    use_large_pages(maps, workspace * sizeof(float));
  }
  run(reinterpret_cast<const Call*>(table), calls, parameters, x, maps, y, threads);
}

EXPORT void verydeep_fully_connected(const float* x, const float* weights, const float* bias, float* y, int64_t rows,
                                     int64_t depth, int64_t outputs, int rectify, int threads) {
  fully_connected(x, weights, bias, y, rows, depth, outputs, rectify != 0, threads);
}

#ifdef VERYDEEP_PHASES
// Nanoseconds by layer and phase since the last call.
EXPORT void verydeep_phases(int64_t* to) {
  for (int64_t layer = 0; layer < LAYERS; ++layer)
    for (int phase = 0; phase < PHASES; ++phase) to[layer * PHASES + phase] = nanoseconds[layer][phase].exchange(0);
}
#endif

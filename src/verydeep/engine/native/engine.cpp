// The functions that Python calls through ctypes. Each takes a pointer to a structure (interface.hpp), so that this can
// be built without Python and torch, and used with any release of either.
//
// This file is compiled three times: for AVX-512, for AVX2 and for any processor; see vectors.hpp.

#include "assertions.hpp"
#include "interface.hpp"
#include "program.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace verydeep;

// Requests huge pages for a map that is about to be written. Its memory is mostly new, and the system clears it and maps
// it page by page.
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

// Preconditions on the sizes of a layer or of its gradients.
template <class Of>
inline void expect_sizes(const Of& of) {
  VERYDEEP_EXPECT(of.images > 0 && of.height > 0 && of.width > 0);
  VERYDEEP_EXPECT(of.in > 0 && of.out > 0);
  VERYDEEP_EXPECT(of.threads > 0);
  static_cast<void>(of);
}

// Calls body with the gradient at a convolution's output, in the kind that its fields say.
template <class Body>
inline void with_gradient(const Gradients& g, Body body) {
  const Shape shape{g.images, g.height, g.width, g.out};
  VERYDEEP_EXPECT(g.gradient != nullptr);
  VERYDEEP_EXPECT(g.winner == nullptr || g.output == nullptr);
  if (g.winner != nullptr) {
    VERYDEEP_EXPECT(g.height > 1 && g.width > 1);
    body(PooledGradient{g.gradient, g.winner, shape});
  } else if (g.output != nullptr) {
    body(RectifiedGradient{g.gradient, g.output, shape});
  } else {
    body(Map{g.gradient, shape});
  }
}

EXPORT int64_t verydeep_abi() { return ABI; }

EXPORT const char* verydeep_description() {
  static const std::string text = description();
  return text.c_str();
}

// The last two are null if torch uses GNU's OpenMP.
EXPORT void verydeep_use_pool(void* gomp_parallel, void* kmp_get_blocktime, void* kmp_set_blocktime) {
  pool = reinterpret_cast<Pool>(gomp_parallel);
  get_blocktime = reinterpret_cast<GetBlocktime>(kmp_get_blocktime);
  set_blocktime = reinterpret_cast<SetBlocktime>(kmp_set_blocktime);
}

// Whether waiting threads of the pool go to sleep soon, since other processes use their cores.
EXPORT int verydeep_sleeps() { return waiting.sleeps(); }

EXPORT void verydeep_use_large_pages(void* memory, int64_t bytes) { use_large_pages(memory, bytes); }

EXPORT void verydeep_convolve(const Convolution* convolution) {
  const Convolution& c = *convolution;
  expect_sizes(c);
  VERYDEEP_EXPECT(c.x != nullptr && c.weights != nullptr && c.bias != nullptr && c.y != nullptr);
  VERYDEEP_EXPECT(!c.pool || (c.rectify && c.height > 1 && c.width > 1));
  const Map map{c.x, {c.images, c.height, c.width, c.in}};
  const Output to = output(c.y, c.winner, c.bias, c.rectify, c.pool, {c.images, c.height, c.width, c.out});
  const int threads = static_cast<int>(c.threads);
  if (c.direct) {
    convolve_directly(map, c.weights, to, threads);
  } else {
    VERYDEEP_EXPECT(c.tiles > 0);
    convolve(map, {c.weights, c.out, c.in, false}, to, {c.tiles, c.shared != 0}, threads);
  }
}

EXPORT void verydeep_input_gradient(const Gradients* gradients) {
  const Gradients& g = *gradients;
  expect_sizes(g);
  VERYDEEP_EXPECT(g.weights != nullptr && g.of_x != nullptr && g.tiles > 0);
  const Output to = output(g.of_x, nullptr, nullptr, false, false, {g.images, g.height, g.width, g.in});
  with_gradient(g, [&](const auto& source) {
    const Weights rotated{g.weights, g.out, g.in, true};
    convolve(source, rotated, to, {g.tiles, g.shared != 0}, static_cast<int>(g.threads));
  });
}

EXPORT void verydeep_weight_gradient(const Gradients* gradients) {
  const Gradients& g = *gradients;
  expect_sizes(g);
  VERYDEEP_EXPECT(g.x != nullptr && g.of_weights != nullptr && g.of_bias != nullptr);
  const Map input{g.x, {g.images, g.height, g.width, g.in}};
  const int threads = static_cast<int>(g.threads);
  with_gradient(g, [&](const auto& source) {
    if (g.direct) {
      weight_gradient_directly(input, source, g.of_weights, g.of_bias, threads);
    } else {
      VERYDEEP_EXPECT(g.tiles > 0);
      weight_gradient(input, source, g.of_weights, g.of_bias, g.tiles, threads);
    }
  });
}

EXPORT void verydeep_fully_connected(const FullyConnected* layer) {
  const FullyConnected& f = *layer;
  expect_sizes(f);
  VERYDEEP_EXPECT(f.x != nullptr && f.weights != nullptr && f.bias != nullptr && f.y != nullptr);
  VERYDEEP_EXPECT(0 < f.kernel_height && f.kernel_height <= f.height);
  VERYDEEP_EXPECT(0 < f.kernel_width && f.kernel_width <= f.width);
  const Map map{f.x, {f.images, f.height, f.width, f.in}};
  fully_connected(map, f.kernel_height, f.kernel_width, f.weights, f.bias, f.y, f.out, f.rectify,
                  static_cast<int>(f.threads));
}

EXPORT void verydeep_run(const Program* program) {
  static thread_local Scratch kept;
  const Program& p = *program;
  VERYDEEP_EXPECT(p.calls != nullptr && p.parameters != nullptr && p.x != nullptr && p.y != nullptr);
  VERYDEEP_EXPECT(p.count > 0 && p.layers > 0 && p.inputs > 0 && p.outputs > 0 && p.floats >= 0 && p.threads > 0);
  use_large_pages(p.y, p.outputs * sizeof(float));
  if (p.workspace == nullptr) {
    run(p, kept.floats(p.floats));
  } else {
    use_large_pages(p.workspace, p.floats * sizeof(float));
    run(p, p.workspace);
  }
}

#ifdef VERYDEEP_PHASES
// Nanoseconds per layer and phase since the last call.
EXPORT void verydeep_phases(int64_t* to) {
  for (int64_t layer = 0; layer < LAYERS; ++layer)
    for (int phase = 0; phase < PHASES; ++phase) to[layer * PHASES + phase] = nanoseconds[layer][phase].exchange(0);
}
#endif

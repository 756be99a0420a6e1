// Layers that follow one another, as schedule.py has put their calls in order.
#pragma once

#include "direct.hpp"
#include "linear.hpp"
#include "pair.hpp"
#include "winograd.hpp"

namespace verydeep {

enum Kind : int64_t { WINOGRAD, DIRECT, PAIR, WHOLE };

// A layer, or two in one, for some images: a row of what schedule.py writes.
struct Call {
  int64_t kind, layer;
  int64_t source, source_at, to, to_at;  // which memory: input, workspace or output; and after how many floats
  int64_t images, height, width, in, between, out;
  int64_t rectify, pool, tiles, shared;

  // Floats, where they are many.
  int64_t weights() const {
    return out * (kind == WINOGRAD ? 9 * in : kind == WHOLE ? height * width * in : 0);
  }
};
static_assert(sizeof(Call) == 16 * sizeof(int64_t), "schedule.py writes rows of 16 numbers");

// parameters: the weights and the bias of each layer.
inline void run(const Call* calls, int64_t count, const float* const* parameters, const float* x, float* maps,
                float* y, int threads) {
  const float* const from[] = {x, maps, y};
  float* const into[] = {nullptr, maps, y};
  for (int64_t i = 0; i < count; ++i) {
    const Call& call = calls[i];
    time_layer(call.layer);
    const Timed timed(WHOLE_LAYER);
    const float* const* const given = parameters + 2 * call.layer;
    const float *weights = given[0], *bias = given[1], *source = from[call.source] + call.source_at;
    float* const to = into[call.to] + call.to_at;
    const Map map{source, {call.images, call.height, call.width, call.in}};
    const auto output = [&](const float* last_bias) {
      const Shape shape{call.images, call.height, call.width, call.out};
      return Output{to, nullptr, last_bias, call.rectify != 0, call.pool != 0, shape, true};
    };
    switch (call.kind) {
      case WINOGRAD:
        convolve(map, {weights, call.out, call.in, false}, output(bias), {call.tiles, call.shared != 0}, threads,
                 i + 1 < count ? Memory{parameters[2 * calls[i + 1].layer], calls[i + 1].weights()} : Memory{});
        break;
      case DIRECT:
        convolve_directly(map, weights, output(bias), threads);
        break;
      case PAIR:
        convolve_twice(map, weights, bias, {given[2], call.out, call.between, false}, output(given[3]), call.tiles,
                       threads);
        break;
      case WHOLE:
        fully_connected(source, weights, bias, to, call.images, call.height * call.width * call.in, call.out,
                        call.rectify != 0, threads);
    }
  }
}

}  // namespace verydeep

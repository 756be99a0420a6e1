// Layers that follow one another, as schedule.py has put their calls in order.
#pragma once

#include "direct.hpp"
#include "pair.hpp"
#include "winograd.hpp"

namespace verydeep {

// A layer, or two in one, for some images: a row of what schedule.py writes.
struct Call {
  int64_t pair, direct, layer;
  int64_t source, source_at, to, to_at;  // which memory: input, workspace or output; and after how many floats
  int64_t images, height, width, in, between, out;
  int64_t rectify, pool, tiles, shared;
};

// Floats of a workspace that is kept from call to call.
constexpr int64_t KEPT = 16 << 20;

// parameters: the weights and the bias of each layer.
inline void run(const Call* calls, int64_t count, const float* const* parameters, const float* x, float* y,
                int64_t workspace, int threads) {
  static thread_local Scratch kept;
  Scratch large;
  float* const maps = (workspace <= KEPT ? kept : large).floats(workspace);
  const float* const from[] = {x, maps, y};
  float* const into[] = {nullptr, maps, y};
  for (int64_t i = 0; i < count; ++i) {
    const Call& call = calls[i];
    const float *weights = parameters[2 * call.layer], *bias = parameters[2 * call.layer + 1];
    const float* const second = call.pair ? parameters[2 * call.layer + 2] : nullptr;
    const float* const last_bias = call.pair ? parameters[2 * call.layer + 3] : bias;
    const Map source{from[call.source] + call.source_at, {call.images, call.height, call.width, call.in}};
    const Output to{into[call.to] + call.to_at,
                    nullptr,
                    last_bias,
                    call.rectify != 0,
                    call.pool != 0,
                    {call.images, call.height, call.width, call.out}};
    if (call.pair) {
      convolve_twice(source, weights, bias, {second, call.out, call.between, false}, to, call.tiles, threads);
    } else if (call.direct) {
      convolve_directly(source, weights, to, threads);
    } else {
      convolve(source, {weights, call.out, call.in, false}, to, {call.tiles, call.shared != 0}, threads);
    }
  }
}

}  // namespace verydeep

// Runs consecutive layers, as calls in the order that schedule.py has planned.
#pragma once

#include "assertions.hpp"
#include "direct.hpp"
#include "interface.hpp"
#include "linear.hpp"
#include "pair.hpp"
#include "winograd.hpp"

namespace verydeep {

// The weights of a call; empty for a kind of layer that has few.
inline Memory weights_of(const Program& program, const Call& call) {
  const int64_t kernel = call.kind == WINOGRAD ? TAPS : call.kind == WHOLE ? call.height * call.width : 0;
  return {program.parameters[2 * call.layer], call.out * kernel * call.in};
}

// Preconditions on a call: it reads and writes within its memories.
inline void expect_inside(const Program& program, const Call& call) {
  const int64_t floats[] = {program.inputs, program.floats, program.outputs};
  VERYDEEP_EXPECT(call.kind >= WINOGRAD && call.kind <= WHOLE);
  VERYDEEP_EXPECT(call.images > 0 && call.height > 0 && call.width > 0 && call.in > 0 && call.out > 0);
  VERYDEEP_EXPECT(call.tiles > 0 && (call.kind != PAIR || call.between > 0));
  VERYDEEP_EXPECT(call.layer >= 0 && call.layer + (call.kind == PAIR) < program.layers);
  VERYDEEP_EXPECT(call.source == INPUT || call.source == WORKSPACE);
  VERYDEEP_EXPECT(call.to == WORKSPACE || call.to == OUTPUT);
  const int64_t pixels = call.kind == WHOLE ? 1
                         : call.pool       ? (call.height / 2) * (call.width / 2)
                                           : call.height * call.width;
  const int64_t read = call.images * call.height * call.width * call.in, written = call.images * pixels * call.out;
  VERYDEEP_EXPECT(written > 0);
  VERYDEEP_EXPECT(call.source_at >= 0 && call.source_at + read <= floats[call.source]);
  VERYDEEP_EXPECT(call.to_at >= 0 && call.to_at + written <= floats[call.to]);
  VERYDEEP_EXPECT(call.source != call.to || call.source_at + read <= call.to_at || call.to_at + written <= call.source_at);
  static_cast<void>(floats), static_cast<void>(read), static_cast<void>(written);
}

inline void run(const Program& program, float* workspace) {
  const float* const from[] = {program.x, workspace, program.y};
  float* const into[] = {nullptr, workspace, program.y};
  const int threads = static_cast<int>(program.threads);
  for (int64_t i = 0; i < program.count; ++i) {
    const Call& call = program.calls[i];
    expect_inside(program, call);
    time_layer(call.layer);
    const Timed timed(WHOLE_LAYER);
    const float* const* const given = program.parameters + 2 * call.layer;
    const float *weights = given[0], *bias = given[1];
    float* const to = into[call.to] + call.to_at;
    const Map map{from[call.source] + call.source_at, {call.images, call.height, call.width, call.in}};
    const auto output = [&](const float* last_bias) {
      const Shape shape{call.images, call.height, call.width, call.out};
      return Output{to, nullptr, last_bias, call.rectify != 0, call.pool != 0, shape, true};
    };
    switch (call.kind) {
      case WINOGRAD:
        convolve(map, {weights, call.out, call.in, false}, output(bias), {call.tiles, call.shared != 0}, threads,
                 i + 1 < program.count ? weights_of(program, program.calls[i + 1]) : Memory{});
        break;
      case DIRECT:
        convolve_directly(map, weights, output(bias), threads);
        break;
      case PAIR:
        convolve_twice(map, weights, bias, {given[2], call.out, call.between, false}, output(given[3]), call.tiles,
                       threads);
        break;
      case WHOLE:
        fully_connected(map, call.height, call.width, weights, bias, to, call.out, call.rectify != 0, threads);
    }
  }
}

}  // namespace verydeep

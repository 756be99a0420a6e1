// Timers for each layer and phase of a program, for benchmarks/engine_phases.py, which compiles with VERYDEEP_PHASES.
// Without it they do nothing.
#pragma once

#include <cstdint>

#ifdef VERYDEEP_PHASES
#include <atomic>
#include <chrono>
#endif

namespace verydeep {

enum Phase { VALUES, PRODUCTS, OUTPUTS, WEIGHTS, FIRST_LAYER, WHOLE_LAYER, PHASES };

#ifdef VERYDEEP_PHASES

constexpr int64_t LAYERS = 64;
inline std::atomic<int64_t> nanoseconds[LAYERS][PHASES];  // summed over threads; of the whole layer, elapsed
inline std::atomic<int64_t> timed_layer{0};

inline void time_layer(int64_t number) { timed_layer = number % LAYERS; }

class Timed {
 public:
  explicit Timed(Phase phase) : phase_(phase), begin_(std::chrono::steady_clock::now()) {}
  ~Timed() {
    const std::chrono::nanoseconds taken = std::chrono::steady_clock::now() - begin_;
    nanoseconds[timed_layer][phase_] += taken.count();
  }

 private:
  Phase phase_;
  std::chrono::steady_clock::time_point begin_;
};

#else

inline void time_layer(int64_t) {}

struct Timed {
  explicit Timed(Phase) {}
};

#endif

}  // namespace verydeep

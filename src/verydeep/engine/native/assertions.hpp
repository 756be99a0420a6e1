// Preconditions, checked only when compiled with VERYDEEP_DEBUG, as `make sanitize` does.
#pragma once

#ifdef VERYDEEP_DEBUG
#include <cstdio>
#include <cstdlib>

namespace verydeep {

[[noreturn]] inline void broken(const char* promise, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: verydeep's engine expects %s\n", file, line, promise);
  std::abort();
}

}  // namespace verydeep

#define VERYDEEP_EXPECT(promise) ((promise) ? static_cast<void>(0) : ::verydeep::broken(#promise, __FILE__, __LINE__))
#else
#define VERYDEEP_EXPECT(promise) static_cast<void>(0)
#endif

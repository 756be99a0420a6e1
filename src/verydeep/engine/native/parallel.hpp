// Work distributed over the threads of torch's own pool.
//
// Two pools in one process compete for the cores: the threads of one spin, waiting for work, while the other computes.
// So nothing here starts OpenMP. The caller that loads this library passes GOMP_parallel of the OpenMP that torch has
// loaded; without it, new threads are started for each piece of work.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "assertions.hpp"
#include "waiting.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace verydeep {

// A unique number for each thread of the pool, beginning with 0.
inline unsigned thread_number() {
  static std::atomic<unsigned> count{0};
  static thread_local const unsigned number = [] {
    const unsigned mine = count.fetch_add(1, std::memory_order_relaxed);
    waiting.enter(mine);
    return mine;
  }();
  return number;
}

// The thread whose share contains the i-th of n tasks, and whether that task is the last of the share.
struct Worker {
  int64_t thread;
  bool last;

  Worker(int64_t i, int64_t n, int threads)
      : thread(((i + 1) * threads - 1) / n), last(i + 1 == n * (thread + 1) / threads) {}
};

// Calls body(i) once for each i in [0, n), on up to `threads` threads, in any order.
//
// Each thread begins with a share of the tasks, as a rule the same part of every layer. So it reads what it wrote itself,
// which may still be in its own cache or in one nearby. A thread that has finished its share helps with the others.
template <class Body>
void parallel(int64_t n, int threads, Body&& body) {
  const unsigned team = static_cast<unsigned>(threads);
  if (threads > n) threads = static_cast<int>(n);
  if (threads <= 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  struct Work {
    Body& body;
    unsigned threads;
    std::vector<Share> shares;
    void run(unsigned number) {
      for (unsigned t = 0; t < threads; ++t) {
        Share& share = shares[(number % threads + t) % threads];
        for (int64_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) body(i);
      }
    }
  } work{body, static_cast<unsigned>(threads), std::vector<Share>(threads)};
  for (int64_t t = 0; t < threads; ++t) {
    work.shares[t].next = n * t / threads;
    work.shares[t].end = n * (t + 1) / threads;
  }
  if (pool != nullptr) {
    waiting.look(team);
    // Always the whole team, as torch does: OpenMP ends threads that a smaller team does not need.
    pool([](void* data) { static_cast<Work*>(data)->run(thread_number()); }, &work, team, 0);
    return;
  }
  std::vector<std::thread> started;
  for (int i = 1; i < threads; ++i) started.emplace_back([&work, i] { work.run(i); });
  work.run(0);
  for (auto& thread : started) thread.join();
}

// Requests huge pages for memory that is read and written in many places at once: the TLB holds few small pages.
inline void use_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t PAGE = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + PAGE - 1) / PAGE * PAGE;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / PAGE * PAGE;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// Memory that a thread keeps from call to call, so that the system need not map and clear its pages each time. Only as
// much may be used as was requested last; the address sanitizer checks that.
class Scratch {
 public:
  float* floats(int64_t count) {
    VERYDEEP_EXPECT(count >= 0);
    if (count > size_) {
      std::free(memory_);
      const int64_t needed = count * sizeof(float), step = needed < (2 << 20) ? 64 : 2 << 20;
      const int64_t bytes = (needed + step - 1) / step * step;
      memory_ = static_cast<float*>(std::aligned_alloc(step, bytes));
      if (memory_ == nullptr) std::abort();
      use_large_pages(memory_, bytes);
      size_ = bytes / sizeof(float);
    }
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(memory_, size_ * sizeof(float));
    ASAN_POISON_MEMORY_REGION(memory_ + count, (size_ - count) * sizeof(float));
#endif
    return memory_;
  }
  ~Scratch() { std::free(memory_); }

 private:
  float* memory_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace verydeep

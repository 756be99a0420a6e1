// How the threads of torch's pool wait for one another.
//
// GNU's OpenMP lets a waiting thread spin for milliseconds before it sleeps. While each thread has a core, that is the
// fastest way: layers are microseconds apart, and waking a thread takes longer. Once another process computes on one of the
// cores, it is ruinous: a spinning thread uses up its time slices, so that the other process holds the core when there is
// work, and the other threads spin until that work is done.
//
// OpenMP reads the spin time from the environment, once, when it is loaded, and no single setting serves both cases. But
// while it manages more threads than the process has cores, it spins for only a 3000th of that time. So when the system
// reports that our threads waited for a core, we make OpenMP form a second team, which only sleeps. When they no longer
// wait, we dissolve that team. No result depends on this.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif

namespace verydeep {

using Pool = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
inline Pool pool = nullptr;

// Functions of LLVM's and Intel's OpenMP that set and return the spin time in milliseconds; null for GNU's.
using SetBlocktime = void (*)(int);
using GetBlocktime = int (*)();
inline SetBlocktime set_blocktime = nullptr;
inline GetBlocktime get_blocktime = nullptr;

// A second team of OpenMP threads, which sleeps until this object is destroyed.
class SleepingTeam {
 public:
  explicit SleepingTeam(unsigned threads) : state_(std::make_shared<State>()) {
    // Nothing joins this thread: neither a process that ends nor a forked one, which lacks the thread, may wait for it.
    std::thread([state = state_, threads] {
      pool([](void*) {}, nullptr, threads, 0);
      std::unique_lock<std::mutex> lock(state->mutex);
      state->wake.wait(lock, [&] { return state->over; });
    }).detach();  // when a thread ends, OpenMP ends its team
  }
  ~SleepingTeam() {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->over = true;
    state_->wake.notify_one();
  }
  SleepingTeam(const SleepingTeam&) = delete;
  SleepingTeam& operator=(const SleepingTeam&) = delete;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable wake;
    bool over = false;
  };
  std::shared_ptr<State> state_;
};

// Nanoseconds for which a thread has run, and for which it was ready to run but had no core.
struct Times {
  int64_t ran = 0, waited = 0;
};

// The times of a thread since it started; nothing if the thread has ended or the system does not record them.
inline std::optional<Times> times_of(int64_t thread) {
#if defined(__linux__)
  char text[96];
  std::snprintf(text, sizeof text, "/proc/self/task/%lld/schedstat", static_cast<long long>(thread));
  const int file = open(text, O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  const ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  if (length <= 0) return std::nullopt;
  text[length] = 0;
  long long ran = 0, waited = 0;
  if (std::sscanf(text, "%lld %lld", &ran, &waited) != 2) return std::nullopt;
  return Times{ran, waited};
#else
  (void)thread;
  return std::nullopt;
#endif
}

// Cores that this process may use.
inline unsigned cores() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
  return std::max(1U, std::thread::hardware_concurrency());
}

// Monitors whether the engine's threads have their cores to themselves, and sets how OpenMP waits.
class Waiting {
 public:
  Waiting() {
    for (const char* name : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"})
      if (std::getenv(name) != nullptr) chosen_ = true;  // the user's choice is kept
  }

  // Called once by each thread of the pool, with its unique number.
  void enter(unsigned number) {
#if defined(__linux__)
    if (number < threads_.size()) threads_[number].id.store(syscall(SYS_gettid), std::memory_order_relaxed);
#else
    (void)number;
#endif
  }

  // Called before each piece of work, by the thread that distributes it over `team` threads. Looks at intervals only.
  void look(unsigned team) {
#if defined(__linux__)
    timespec clock;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &clock);
    const int64_t now = clock.tv_sec * 1'000'000'000LL + clock.tv_nsec;
    if (chosen_ || now < due_.load(std::memory_order_relaxed)) return;
    const std::unique_lock<std::mutex> lock(looking_, std::try_to_lock);
    if (!lock.owns_lock()) return;
    due_.store(now + INTERVAL, std::memory_order_relaxed);
    // The most of any thread since the last decision: time waiting for a core, and time waiting or running.
    int64_t waited = 0, wanted = 0;
    for (Thread& thread : threads_) {
      const int64_t id = thread.id.load(std::memory_order_relaxed);
      if (id == 0) break;  // numbers are assigned in order
      thread.now = times_of(id);
      if (!thread.now || !thread.before) continue;
      const Times times{thread.now->ran - thread.before->ran, thread.now->waited - thread.before->waited};
      waited = std::max(waited, times.waited);
      wanted = std::max(wanted, times.waited + times.ran);
    }
    const bool enough = wanted > ENOUGH;
    for (Thread& thread : threads_)
      if (enough || !thread.before) thread.before = thread.now;
    if (enough) decide(waited > SHARE * wanted, team);
#else
    (void)team;
#endif
  }

  // Whether waiting threads go to sleep soon.
  bool sleeps() const { return sleeps_.load(std::memory_order_relaxed); }

 private:
  static constexpr int64_t INTERVAL = 50'000'000;  // ns between two looks
  static constexpr int64_t ENOUGH = 20'000'000;    // ns for which the busiest thread must have had work for a decision
  static constexpr double SHARE = 0.1;             // of that time spent waiting for a core: other processes compute
  static constexpr int CALM = 10;                  // consecutive decisions without that before threads spin again

  struct Thread {
    std::atomic<int64_t> id{0};
    std::optional<Times> before, now;
  };

  void decide(bool crowded, unsigned team) {
    calm_ = crowded ? 0 : calm_ + 1;
    if (crowded && !sleeps()) {
      sleeps_.store(sleep(team), std::memory_order_relaxed);
    } else if (calm_ == CALM && sleeps()) {
      if (set_blocktime != nullptr) set_blocktime(usual_);
      second_.reset();
      sleeps_.store(false, std::memory_order_relaxed);
    }
  }

  // Makes waiting threads sleep; returns whether that is possible.
  bool sleep(unsigned team) {
    if (set_blocktime != nullptr) {
      usual_ = get_blocktime();
      set_blocktime(0);
      return true;
    }
    const unsigned have = cores();
    if (have > 2 * team) return false;  // the system moves our threads to another core
    try {
      second_.emplace(have < team ? 2 : have - team + 2);  // OpenMP does not count its first thread
    } catch (const std::system_error&) {  // no further thread is allowed
      return false;
    }
    return true;
  }

  std::array<Thread, 256> threads_;
  std::mutex looking_;
  std::atomic<int64_t> due_{0};
  std::atomic<bool> sleeps_{false};
  std::optional<SleepingTeam> second_;
  int usual_ = 0;  // the spin time of LLVM's OpenMP, in milliseconds, before we changed it
  int calm_ = 0;
  bool chosen_ = false;
};

// Never destroyed: threads may still be working while the process ends.
inline Waiting& waiting = *new Waiting;

}  // namespace verydeep

// Divides the work of a call among the threads of XLA's pool. All CPU kernels use it.
#ifndef DLRM_JAX_CPU_KERNELS_COMMON_H_
#define DLRM_JAX_CPU_KERNELS_COMMON_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace dlrm {

// Calls work(part) for part = 0 .. parts-1. The caller works too, and waits only for parts that other threads have begun. So kernels
// that run concurrently in one pool cannot wait for each other.
template <class Work>
void Parallel(ffi::ThreadPool& pool, int64_t parts, const Work& work) {
  struct Job {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto job = std::make_shared<Job>();
  auto run = [job, parts, &work] {  // a late thread finds no part left and does not use `work`
    for (int64_t part; (part = job->next.fetch_add(1)) < parts;) {
      work(part);
      job->done.fetch_add(1, std::memory_order_release);
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), parts) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    auto copy = run;
    pool.Schedule(std::move(copy));
  }
  run();
  while (job->done.load(std::memory_order_acquire) < parts) std::this_thread::yield();
}

// Calls work(begin, end) for ranges of 0 .. n, which are small enough that threads finish together.
template <class Work>
void ParallelRange(ffi::ThreadPool& pool, int64_t n, int64_t least, const Work& work) {
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const int64_t parts = threads == 1 ? 1 : std::clamp<int64_t>(n / least, 1, 4 * threads);
  Parallel(pool, parts, [&](int64_t part) { work(n * part / parts, n * (part + 1) / parts); });
}

}  // namespace dlrm

#endif  // DLRM_JAX_CPU_KERNELS_COMMON_H_

// Lookups and sparse updates of embedding tables. embedding/storage.py and embedding/update.py compute the same in XLA, and tests compare.
#include <cmath>
#include <cstring>
#include <vector>

#include "common.h"

namespace dlrm {
namespace {

constexpr int64_t kAhead = 16;  // how many rows ahead of their use are prefetched

// Prefetches `count` floats from `start` on, for writing or for reading.
template <bool kWrite>
inline void Prefetch(const float* start, int64_t count) {
  for (int64_t at = 0; at < count; at += 16) __builtin_prefetch(start + at, kWrite, 3);
}

// Returns whether each row is below `num_rows`. Any other would read or write memory outside the table.
bool InBounds(const int32_t* row, const bool* valid, int64_t n, int64_t num_rows) {
  bool fine = true;
  for (int64_t i = 0; i < n; ++i) fine &= static_cast<uint32_t>(row[i]) < num_rows || (valid != nullptr && !valid[i]);
  return fine;
}

ffi::Error OutOfBounds() { return ffi::Error::InvalidArgument("a looked-up row is not in the table"); }

// Copies the rows of examples begin .. end, column by column. The rows of a column are in one table, and pages near each other are found
// faster.
template <int64_t kBytes>
void TakeRange(const char* table, const int32_t* row, char* out, int64_t bytes, int64_t length, int64_t begin, int64_t end) {
  const int64_t size = kBytes ? kBytes : bytes;
  for (int64_t column = 0; column < length; ++column) {
    for (int64_t example = begin; example < end; ++example) {
      const int64_t i = example * length + column;
      if (example + kAhead < end) Prefetch<false>(reinterpret_cast<const float*>(table + row[i + kAhead * length] * size), size / 4);
      std::memcpy(out + i * size, table + row[i] * size, size);
    }
  }
}

// out[i] = table[row[i]].
ffi::Error Take(ffi::ThreadPool pool, ffi::AnyBuffer table, ffi::Buffer<ffi::S32> row, ffi::Result<ffi::AnyBuffer> out) {
  const int64_t bytes = table.size_bytes() / std::max<int64_t>(table.dimensions()[0], 1);
  if (!InBounds(row.typed_data(), nullptr, row.element_count(), table.dimensions()[0])) return OutOfBounds();
  const char* from = static_cast<const char*>(table.untyped_data());
  char* to = static_cast<char*>(out->untyped_data());
  const int64_t length = row.dimensions().size() == 2 ? std::max<int64_t>(row.dimensions()[1], 1) : 1;
  ParallelRange(pool, row.element_count() / length, std::max<int64_t>(2048 / length, 1), [&](int64_t begin, int64_t end) {
    switch (bytes) {
      case 4: return TakeRange<4>(from, row.typed_data(), to, bytes, length, begin, end);
      case 32: return TakeRange<32>(from, row.typed_data(), to, bytes, length, begin, end);
      case 64: return TakeRange<64>(from, row.typed_data(), to, bytes, length, begin, end);
      case 256: return TakeRange<256>(from, row.typed_data(), to, bytes, length, begin, end);
      default: return TakeRange<0>(from, row.typed_data(), to, bytes, length, begin, end);
    }
  });
  return ffi::Error::Success();
}

enum class Optimizer { kSgd, kAdagrad, kRowwiseAdagrad };

struct Update {
  float* rows;                      // [V, D], in place
  float* squares;                   // [V, D] or [V], in place; null for sgd
  const int32_t* row;               // [B, L]
  const bool* valid;                // [B, L]
  const float* grad;                // [B, L, D]
  int64_t num_examples, length, dim;  // B, L, D
  const float* lr;                    // one for each piece of columns
  float weight_decay, eps;
};

// The distinct rows of some lookups, in order of first appearance, and the sums of their gradients. The memory is reused by later calls.
struct Distinct {
  struct Entry {
    int32_t row, index;
  };
  std::vector<Entry> hash;                // open addressing; index -1: empty
  std::vector<int32_t> row;               // of each distinct row
  std::vector<const float*> grad;         // of each distinct row: its only gradient, or the sum
  std::vector<float> sums;
  int64_t count;
};

// Finds the distinct rows of columns begin .. end of every example. A batch looks up few rows of a feature, so that the hash stays in the
// first-level cache. The rows are prefetched here and used in Step.
template <Optimizer kOptimizer, int64_t kDim>
void Collect(const Update& p, int64_t begin, int64_t end, Distinct& d) {
  const int64_t dim = kDim ? kDim : p.dim, n = p.num_examples * (end - begin);
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * n) ++bits;
  const uint32_t mask = (uint32_t{1} << bits) - 1;
  d.hash.assign(size_t{mask} + 1, {0, -1});
  d.row.resize(n), d.grad.resize(n), d.sums.resize(n * dim / 2);  // a sum has at least two terms
  d.count = 0;
  float* next_sum = d.sums.data();
  for (int64_t example = 0; example < p.num_examples; ++example) {
    const int64_t ahead = std::min(example + kAhead, p.num_examples - 1) * p.length;
    for (int64_t column = begin; column < end; ++column) {
      const int64_t i = example * p.length + column;
      __builtin_prefetch(p.row + ahead + column);
      Prefetch<false>(p.grad + (ahead + column) * dim, dim);
      if (!p.valid[i]) continue;
      const int32_t row = p.row[i];
      const float* grad = p.grad + i * dim;
      uint32_t at = (static_cast<uint32_t>(row) * 0x9E3779B1u) >> (32 - bits);
      while (d.hash[at].index >= 0 && d.hash[at].row != row) at = (at + 1) & mask;
      if (d.hash[at].index < 0) {
        Prefetch<true>(p.rows + row * dim, dim);
        if (kOptimizer == Optimizer::kAdagrad) Prefetch<true>(p.squares + row * dim, dim);
        if (kOptimizer == Optimizer::kRowwiseAdagrad) Prefetch<true>(p.squares + row, 1);
        d.hash[at] = {row, static_cast<int32_t>(d.count)};
        d.row[d.count] = row, d.grad[d.count++] = grad;
        continue;
      }
      const float*& total = d.grad[d.hash[at].index];
      const bool summed = total >= d.sums.data() && total < next_sum;
      float* sum = summed ? const_cast<float*>(total) : next_sum;
      for (int64_t j = 0; j < dim; ++j) sum[j] = total[j] + grad[j];
      if (!summed) total = next_sum, next_sum += dim;
    }
  }
}

template <Optimizer kOptimizer, int64_t kDim>
void Step(const Update& p, const Distinct& d, float lr) {
  const int64_t dim = kDim ? kDim : p.dim;
  for (int64_t k = 0; k < d.count; ++k) {
    const int64_t row = d.row[k];
    const float* grad = d.grad[k];
    float* weight = p.rows + row * dim;
    float scale = 1.0f;
    if (kOptimizer == Optimizer::kRowwiseAdagrad) {
      float square = 0.0f;
      for (int64_t j = 0; j < dim; ++j) square += grad[j] * grad[j];
      p.squares[row] += square / dim;
      scale = 1.0f / (std::sqrt(p.squares[row]) + p.eps);
    }
    for (int64_t j = 0; j < dim; ++j) {
      float direction = grad[j] * scale;
      if (kOptimizer == Optimizer::kAdagrad) {
        float& square = p.squares[row * dim + j];
        square += grad[j] * grad[j];
        direction = grad[j] / (std::sqrt(square) + p.eps);
      }
      weight[j] -= lr * (direction + p.weight_decay * weight[j]);
    }
  }
}

template <Optimizer kOptimizer, int64_t kDim>
void UpdateColumns(const Update& p, int64_t begin, int64_t end, float lr) {
  thread_local Distinct distinct;
  Collect<kOptimizer, kDim>(p, begin, end, distinct);
  Step<kOptimizer, kDim>(p, distinct, lr);
}

// Columns between two neighbours of `bounds` share rows with each other and with no other columns. Each thread updates such pieces.
template <Optimizer kOptimizer>
void Run(ffi::ThreadPool& pool, const Update& p, ffi::Span<const int64_t> bounds) {
  Parallel(pool, static_cast<int64_t>(bounds.size()) - 1, [&](int64_t piece) {
    const int64_t begin = bounds[piece], end = bounds[piece + 1];
    const float lr = p.lr[piece];
    switch (p.dim) {
      case 1: return UpdateColumns<kOptimizer, 1>(p, begin, end, lr);
      case 8: return UpdateColumns<kOptimizer, 8>(p, begin, end, lr);
      case 16: return UpdateColumns<kOptimizer, 16>(p, begin, end, lr);
      case 64: return UpdateColumns<kOptimizer, 64>(p, begin, end, lr);
      default: return UpdateColumns<kOptimizer, 0>(p, begin, end, lr);
    }
  });
}

using Floats = ffi::Buffer<ffi::F32>;
using Ints = ffi::Buffer<ffi::S32>;
using Bools = ffi::Buffer<ffi::PRED>;
using Rates = ffi::Buffer<ffi::F32, 1>;
using Span = ffi::Span<const int64_t>;

// One step of sgd. `rows` is donated and updated in place as `out`.
ffi::Error Sgd(ffi::ThreadPool pool, Floats rows, Ints row, Bools valid, Floats grad, Rates lr, Span bounds, float weight_decay,
               ffi::Result<Floats> out) {
  if (rows.typed_data() != out->typed_data()) return ffi::Error::Internal("rows are not updated in place");
  if (!InBounds(row.typed_data(), valid.typed_data(), row.element_count(), rows.dimensions()[0])) return OutOfBounds();
  const auto shape = grad.dimensions();
  Run<Optimizer::kSgd>(pool, {out->typed_data(), nullptr, row.typed_data(), valid.typed_data(), grad.typed_data(), shape[0], shape[1],
                              shape[2], lr.typed_data(), weight_decay, 0.0f}, bounds);
  return ffi::Error::Success();
}

// One step of Adagrad (`squares` is [V, D]) or of row-wise Adagrad ([V]), in place.
ffi::Error Adagrad(ffi::ThreadPool pool, Floats rows, Floats squares, Ints row, Bools valid, Floats grad, Rates lr, Span bounds,
                   float weight_decay, float eps, ffi::Result<Floats> out, ffi::Result<Floats> squares_out) {
  if (rows.typed_data() != out->typed_data() || squares.typed_data() != squares_out->typed_data())
    return ffi::Error::Internal("rows are not updated in place");
  if (!InBounds(row.typed_data(), valid.typed_data(), row.element_count(), rows.dimensions()[0])) return OutOfBounds();
  const auto shape = grad.dimensions();
  const Update p = {out->typed_data(), squares_out->typed_data(), row.typed_data(), valid.typed_data(), grad.typed_data(), shape[0],
                     shape[1], shape[2], lr.typed_data(), weight_decay, eps};
  if (squares.dimensions().size() == 1) {
    Run<Optimizer::kRowwiseAdagrad>(pool, p, bounds);
  } else {
    Run<Optimizer::kAdagrad>(pool, p, bounds);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(dlrm_take, Take,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<Ints>().Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(dlrm_sgd, Sgd,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Ints>().Arg<Bools>()
                                  .Arg<Floats>().Arg<Rates>().Attr<Span>("bounds").Attr<float>("weight_decay").Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(dlrm_adagrad, Adagrad,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Ints>()
                                  .Arg<Bools>().Arg<Floats>().Arg<Rates>().Attr<Span>("bounds").Attr<float>("weight_decay")
                                  .Attr<float>("eps").Ret<Floats>().Ret<Floats>());

}  // namespace dlrm

// The dot interaction and its gradient. model/interaction.py computes the same in XLA, and tests compare the two.
#include <cstring>
#include <vector>

#include "common.h"

namespace dlrm {
namespace {

constexpr int64_t kLanes = 16;
typedef float Vec __attribute__((vector_size(64), aligned(4)));
typedef float Quad __attribute__((vector_size(16), aligned(4)));

// Scratch memory. Each vector is within one cache line.
struct alignas(64) Line {
  float values[kLanes];
};

inline float* Lines(std::vector<Line>& scratch, int64_t num_floats) {
  scratch.assign((num_floats + kLanes - 1) / kLanes, Line{});
  return scratch[0].values;
}

// The vectors of each example: the dense one first, if there is one, then the rows.
struct Vectors {
  const float *dense, *rows;  // [B, D] or null; [B, F, D]
  int64_t num_rows, dim;

  int64_t count() const { return num_rows + (dense != nullptr); }
  // Returns the address of vector v of an example in two arrays of these shapes.
  template <class T>
  T* within(T* dense_like, T* rows_like, int64_t example, int64_t v) const {
    if (dense != nullptr && v-- == 0) return dense_like + example * dim;
    return rows_like + (example * num_rows + v) * dim;
  }
  const float* at(int64_t example, int64_t v) const { return within(dense, rows, example, v); }
};

Vectors Given(ffi::Buffer<ffi::F32>& dense, ffi::Buffer<ffi::F32>& rows) {
  return {dense.dimensions()[1] ? dense.typed_data() : nullptr, rows.typed_data(), rows.dimensions()[1], rows.dimensions()[2]};
}

#if defined(__clang__) || __GNUC__ >= 12
#define DLRM_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int QuadIndex __attribute__((vector_size(16)));
#define DLRM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, QuadIndex{__VA_ARGS__})
#endif

// Writes four vectors as columns: to[d * stride + i] = from[i][d].
inline void Transpose(const float* const from[4], int64_t dim, float* to, int64_t stride) {
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
    Quad row[4];
    for (int i = 0; i < 4; ++i) row[i] = *reinterpret_cast<const Quad*>(from[i] + d);
    const Quad low01 = DLRM_SHUFFLE(row[0], row[1], 0, 4, 1, 5), high01 = DLRM_SHUFFLE(row[0], row[1], 2, 6, 3, 7);
    const Quad low23 = DLRM_SHUFFLE(row[2], row[3], 0, 4, 1, 5), high23 = DLRM_SHUFFLE(row[2], row[3], 2, 6, 3, 7);
    *reinterpret_cast<Quad*>(to + d * stride) = DLRM_SHUFFLE(low01, low23, 0, 1, 4, 5);
    *reinterpret_cast<Quad*>(to + (d + 1) * stride) = DLRM_SHUFFLE(low01, low23, 2, 3, 6, 7);
    *reinterpret_cast<Quad*>(to + (d + 2) * stride) = DLRM_SHUFFLE(high01, high23, 0, 1, 4, 5);
    *reinterpret_cast<Quad*>(to + (d + 3) * stride) = DLRM_SHUFFLE(high01, high23, 2, 3, 6, 7);
  }
  for (; d < dim; ++d) {
    for (int i = 0; i < 4; ++i) to[d * stride + i] = from[i][d];
  }
}

// Writes the dot products of the four vectors f0 .. f0+3 with the 32 from g0 on to dots[4][32]. `zt` is [D, padded]; columns are vectors.
inline void Block(const float* zt, int64_t dim, int64_t padded, int64_t f0, int64_t g0, float* dots) {
  Vec acc0[2] = {}, acc1[2] = {}, acc2[2] = {}, acc3[2] = {};
  for (int64_t d = 0; d < dim; ++d) {
    const float *z = zt + d * padded, *w = z + f0;
    const Vec left = *reinterpret_cast<const Vec*>(z + g0), right = *reinterpret_cast<const Vec*>(z + g0 + kLanes);
    acc0[0] += w[0] * left, acc0[1] += w[0] * right, acc1[0] += w[1] * left, acc1[1] += w[1] * right;
    acc2[0] += w[2] * left, acc2[1] += w[2] * right, acc3[0] += w[3] * left, acc3[1] += w[3] * right;
  }
  std::memcpy(dots, acc0, sizeof acc0), std::memcpy(dots + 32, acc1, sizeof acc1);
  std::memcpy(dots + 64, acc2, sizeof acc2), std::memcpy(dots + 96, acc3, sizeof acc3);
}

// out[b] = [the dense vector, if `lead`; the dot products of every pair f < g in row-major order].
ffi::Error Forward(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> dense, ffi::Buffer<ffi::F32> rows, bool lead,
                   ffi::ResultBuffer<ffi::F32> out) {
  const Vectors given = Given(dense, rows);
  lead = lead && given.dense != nullptr;
  const int64_t num = given.count(), dim = given.dim, width = out->dimensions()[1];
  const int64_t padded = (num + 4 + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
  ParallelRange(pool, rows.dimensions()[0], 64, [&](int64_t begin, int64_t end) {
    thread_local std::vector<Line> scratch;
    float* zt = Lines(scratch, padded * dim);
    for (int64_t b = begin; b < end; ++b) {
      float* to = out->typed_data() + b * width;
      for (int64_t v = 0; v < num; v += 4) {
        const float* from[4];
        for (int64_t i = 0; i < 4; ++i) from[i] = given.at(b, std::min(v + i, num - 1));
        Transpose(from, dim, zt + v, padded);
      }
      if (lead) {
        std::memcpy(to, given.at(b, 0), dim * sizeof(float));
        to += dim;
      }
      for (int64_t f0 = 0; f0 + 1 < num; f0 += 4) {
        for (int64_t g0 = (f0 + 1) / kLanes * kLanes; g0 < num; g0 += 2 * kLanes) {
          float dots[4 * 2 * kLanes];
          if (g0 + 2 * kLanes > padded) g0 = padded - 2 * kLanes;  // computes some products twice rather than beyond the end
          Block(zt, dim, padded, f0, g0, dots);
          for (int64_t f = f0; f < std::min(f0 + 4, num - 1); ++f) {
            const int64_t first = std::max(f + 1, g0), last = std::min(g0 + 2 * kLanes, num);
            const int64_t start = f * num - f * (f + 1) / 2 - f - 1;
            const float* from = dots + (f - f0) * 2 * kLanes - g0;
            for (int64_t g = first; g < last; ++g) to[start + g] = from[g];
          }
        }
      }
    }
  });
  return ffi::Error::Success();
}

// dZ = S Z, where S is the symmetric matrix of the gradients of the products. It works in blocks of eight vectors by 16 values.
void BackwardRange(const Vectors& given, const float* grad, bool lead, float* to_dense, float* to_rows, int64_t begin, int64_t end) {
  const int64_t num = given.count(), dim = given.dim, width = num * (num - 1) / 2 + (lead ? dim : 0);
  const int64_t padded = (dim + kLanes - 1) / kLanes * kLanes, rows8 = (num + 7) / 8 * 8;
  thread_local std::vector<Line> scratch;
  float *z = Lines(scratch, 2 * rows8 * padded + num * rows8), *dz = z + rows8 * padded, *s = dz + rows8 * padded;  // s: [num, rows8]
  for (int64_t b = begin; b < end; ++b) {
    const float *lead_grad = grad + b * width, *pair = lead_grad + (lead ? dim : 0);
    for (int64_t v = 0; v < num; ++v) std::memcpy(z + v * padded, given.at(b, v), dim * sizeof(float));
    for (int64_t f = 0; f < num; ++f) {
      float *across = s + f * rows8, *down = s + f;
      for (int64_t g = f + 1; g < num; ++g) across[g] = down[g * rows8] = *pair++;
    }
    for (int64_t f = 0; f < num; f += 8) {
      for (int64_t d = 0; d < padded; d += kLanes) {
        Vec acc0{}, acc1{}, acc2{}, acc3{}, acc4{}, acc5{}, acc6{}, acc7{};
        for (int64_t g = 0; g < num; ++g) {
          const Vec zg = *reinterpret_cast<const Vec*>(z + g * padded + d);
          const float* w = s + g * rows8 + f;
          acc0 += w[0] * zg, acc1 += w[1] * zg, acc2 += w[2] * zg, acc3 += w[3] * zg;
          acc4 += w[4] * zg, acc5 += w[5] * zg, acc6 += w[6] * zg, acc7 += w[7] * zg;
        }
        const Vec sums[8] = {acc0, acc1, acc2, acc3, acc4, acc5, acc6, acc7};
        for (int64_t i = 0; i < 8; ++i) *reinterpret_cast<Vec*>(dz + (f + i) * padded + d) = sums[i];
      }
    }
    for (int64_t v = 0; v < num; ++v) std::memcpy(given.within(to_dense, to_rows, b, v), dz + v * padded, dim * sizeof(float));
    if (lead) {
      for (int64_t d = 0; d < dim; ++d) to_dense[b * dim + d] += lead_grad[d];
    }
  }
}

ffi::Error Backward(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> dense, ffi::Buffer<ffi::F32> rows, ffi::Buffer<ffi::F32> grad, bool lead,
                    ffi::ResultBuffer<ffi::F32> to_dense, ffi::ResultBuffer<ffi::F32> to_rows) {
  const Vectors given = Given(dense, rows);
  lead = lead && given.dense != nullptr;
  float *dense_out = to_dense->typed_data(), *rows_out = to_rows->typed_data();
  ParallelRange(pool, rows.dimensions()[0], 64, [&](int64_t begin, int64_t end) {
    BackwardRange(given, grad.typed_data(), lead, dense_out, rows_out, begin, end);
  });
  return ffi::Error::Success();
}

using Floats = ffi::Buffer<ffi::F32>;

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(dlrm_interact, Forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Attr<bool>("lead").Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(dlrm_interact_backward, Backward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Attr<bool>("lead")
                                  .Ret<Floats>().Ret<Floats>());

}  // namespace dlrm

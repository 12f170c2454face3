// The bias and ReLU of a layer, in place, and their gradient. model/mlp.py computes the same in XLA, and tests compare the two.
#include <vector>

#include "common.h"

namespace dlrm {
namespace {

using Floats = ffi::Buffer<ffi::F32>;

constexpr int64_t kPieces = 8;  // pieces of a batch; fixed, so that sums do not depend on the number of threads

// y = max(x + bias, 0); x becomes y.
ffi::Error BiasRelu(ffi::ThreadPool pool, Floats x, Floats bias, ffi::Result<Floats> y) {
  const int64_t num = x.dimensions()[0], width = x.dimensions()[1];
  if (x.typed_data() != y->typed_data()) return ffi::Error::Internal("x is not updated in place");
  ParallelRange(pool, num, 64, [&](int64_t begin, int64_t end) {
    const float* __restrict b = bias.typed_data();
    for (int64_t i = begin; i < end; ++i) {
      float* __restrict row = y->typed_data() + i * width;
      for (int64_t j = 0; j < width; ++j) row[j] = std::max(row[j] + b[j], 0.0f);
    }
  });
  return ffi::Error::Success();
}

// The gradients with respect to x (grad where y > 0, else 0; it overwrites grad) and to the bias (the sum over the batch).
ffi::Error BiasReluBackward(ffi::ThreadPool pool, Floats grad, Floats y, ffi::Result<Floats> to_x, ffi::Result<Floats> to_bias) {
  const int64_t num = grad.dimensions()[0], width = grad.dimensions()[1];
  if (grad.typed_data() != to_x->typed_data()) return ffi::Error::Internal("the gradient is not updated in place");
  float* db = to_bias->typed_data();
  std::vector<float> sums(kPieces * width, 0.0f);
  Parallel(pool, kPieces, [&](int64_t piece) {
    float* __restrict sum = sums.data() + piece * width;
    for (int64_t i = num * piece / kPieces; i < num * (piece + 1) / kPieces; ++i) {
      const float* __restrict out = y.typed_data() + i * width;
      float* __restrict dx = to_x->typed_data() + i * width;
      for (int64_t j = 0; j < width; ++j) {
        dx[j] = out[j] > 0.0f ? dx[j] : 0.0f;
        sum[j] += dx[j];
      }
    }
  });
  std::fill(db, db + width, 0.0f);
  for (int64_t piece = 0; piece < kPieces; ++piece) {
    for (int64_t j = 0; j < width; ++j) db[j] += sums[piece * width + j];
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(dlrm_bias_relu, BiasRelu, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(dlrm_bias_relu_backward, BiasReluBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>().Ret<Floats>());

}  // namespace dlrm

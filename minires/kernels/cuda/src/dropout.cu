// Dropout, with the mask that the reference draws.
//
// Idea: a thread owns one value. Its random bits are a hash of its number in the logical order
// (N, C, pixels), while the memory order is (N, pixels, C), so no device-wide order matters.
// Bytes: forward reads x and writes y and the factor, backward reads two arrays and writes one.
// Share of the memory roof: not yet measured.
#include "random.cuh"

// y = x * factor, factor = `scale` or 0 with probability p: x, y, factor (N, pixels, C). `state` is
// the hash of (seed, stream, layer); counter and step: see `draw_at`.
template <typename T>
__global__ void dropout_forward(const T* x, T* y, T* factor, bits_t state, const index_t* counter,
                                index_t step, int N, int pixels, int C, float p, float scale) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * pixels * C) return;
  index_t c = at % C, pixel = at / C % pixels, n = at / ((index_t)C * pixels);
  bits_t now = draw_at(state, counter, step);
  bool keep = uniform(draw_bits(now, (n * C + c) * pixels + pixel)) >= p;
  T value = from_float<T>(keep ? scale : 0.0f);
  factor[at] = value;
  y[at] = from_float<T>(to_float(x[at]) * to_float(value));
}

// grad_x = grad * factor; the gradient may be wider than x.
template <typename G, typename T>
__global__ void dropout_backward(const G* grad, const T* factor, G* grad_x, index_t size) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at < size) grad_x[at] = from_float<G>(to_float(grad[at]) * to_float(factor[at]));
}

// Nearest-neighbour enlargement by a whole factor, on memory order (N, H, W, C).
//
// Idea: a thread owns one output value; in backward, one input value, for which it adds up the
// square that came of it, so nothing is added atomically.
// Bytes: each array is read or written once. Share of the memory roof: not yet measured.
#include "common.cuh"

// y (N, factor H, factor W, C) of x (N, H, W, C).
template <typename T>
__global__ void upsample_forward(const T* x, T* y, int N, int H, int W, int C, int factor) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * H * W * C * factor * factor) return;
  int c = at % C;
  index_t pixel = at / C;
  int q = pixel % (W * factor);
  index_t line = pixel / (W * factor);  // n * H * factor + p
  y[at] = x[(line / factor * W + q / factor) * C + c];
}

// grad_x (N, H, W, C): the sums of the squares of grad (N, factor H, factor W, C).
template <typename T>
__global__ void upsample_backward(const T* grad, T* grad_x, int N, int H, int W, int C,
                                  int factor) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * H * W * C) return;
  int c = at % C, w = at / C % W;
  index_t line = at / ((index_t)C * W);
  float sum = 0.0f;
  for (int i = 0; i < factor; i++) {
    const T* row = grad + ((line * factor + i) * W + w) * factor * C + c;
    for (int j = 0; j < factor; j++) sum += to_float(row[j * C]);
  }
  grad_x[at] = from_float<T>(sum);
}

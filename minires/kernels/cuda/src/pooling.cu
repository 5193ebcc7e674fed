// Global average pooling and max pooling on memory order (N, H, W, C).
//
// Idea: a thread owns one output (n, c) or (n, p, q, c), and in backward one *input*: it gathers
// from the windows that cover it, so nothing is added atomically and the bits are always the same.
// Bytes: the input is read once, the output written once. Share of the roof: not yet measured.
#include "common.cuh"

// y (N, C): the mean over `pixels` of x (N, pixels, C). Grid (channel blocks, N).
template <typename T> __global__ void average_forward(const T* x, T* y, int pixels, int C) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= C) return;
  const T* image = x + (index_t)blockIdx.y * pixels * C + c;
  float sum = 0.0f;
  for (int pixel = 0; pixel < pixels; pixel++) sum += to_float(image[(index_t)pixel * C]);
  y[(index_t)blockIdx.y * C + c] = from_float<T>(sum / pixels);
}

// grad_x (N, pixels, C): grad (N, C) / pixels at each pixel. The gradient may be wider than x.
template <typename G, typename T>
__global__ void average_backward(const G* grad, T* grad_x, int N, int pixels, int C) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * pixels * C) return;
  int c = at % C;
  index_t n = at / ((index_t)pixels * C);
  grad_x[at] = from_float<T>(to_float(grad[n * C + c]) / pixels);
}

// y and winner (N, P, Q, C): the largest value of each window of x (N, H, W, C) and its index in
// the window; of equal values the first in row order wins, and a NaN wins over everything.
template <typename T>
__global__ void max_forward(const T* x, T* y, int* winner, int N, int H, int W, int C, int P, int Q,
                            int kernel, int stride, int padding) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * P * Q * C) return;
  int c = at % C;
  index_t pixel = at / C;
  int q = pixel % Q, p = pixel / Q % P;
  index_t n = pixel / ((index_t)P * Q);
  float best = minus_infinity();
  int chosen = -1;
  for (int i = 0; i < kernel; i++) {
    for (int j = 0; j < kernel; j++) {
      int h = p * stride - padding + i, w = q * stride - padding + j;
      if (h < 0 || h >= H || w < 0 || w >= W) continue;
      float v = to_float(x[((n * H + h) * W + w) * C + c]);
      if (chosen < 0 || v > best || (v != v && best == best)) {
        best = v;
        chosen = i * kernel + j;
      }
    }
  }
  y[at] = from_float<T>(best);
  winner[at] = chosen;
}

// grad_x (N, H, W, C): the sum of grad (N, P, Q, C) over the windows that this pixel won.
template <typename T>
__global__ void max_backward(const T* grad, const int* winner, T* grad_x, int N, int H, int W,
                             int C, int P, int Q, int kernel, int stride, int padding) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * H * W * C) return;
  int c = at % C;
  index_t pixel = at / C;
  int w = pixel % W, h = pixel / W % H;
  index_t n = pixel / ((index_t)W * H);
  float sum = 0.0f;
  for (int i = 0; i < kernel; i++) {
    int down = h + padding - i;
    if (down < 0 || down % stride || down / stride >= P) continue;
    for (int j = 0; j < kernel; j++) {
      int right = w + padding - j;
      if (right < 0 || right % stride || right / stride >= Q) continue;
      index_t from = ((n * P + down / stride) * Q + right / stride) * C + c;
      if (winner[from] == i * kernel + j) sum += to_float(grad[from]);
    }
  }
  grad_x[at] = from_float<T>(sum);
}

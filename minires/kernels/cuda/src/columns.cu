// The first rung of convolution: every window copied out as a row, so that one matrix product does
// the rest, and the way back.
//
// Idea: row (n, p, q) of the column matrix holds the window's R S C values, channels fastest, which
// is also the memory order (K, R, S, C) of a weight. A thread owns one value of the matrix; on the
// way back it owns one value of the image and gathers from every row that holds it.
// Bytes: R S times the activation, written here and read by the product: the reason for the next
// rung. Share of the roof: not yet measured.
#include "common.cuh"

template <typename T>
__global__ void im2col(const T* x, T* columns, int N, int H, int W, int C, int R, int S, int P,
                       int Q, int stride, int padding) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * P * Q * R * S * C) return;
  int c = at % C;
  index_t rest = at / C;
  int s = rest % S, r = rest / S % R;
  index_t pixel = rest / (R * S);
  int q = pixel % Q, p = pixel / Q % P;
  index_t n = pixel / ((index_t)P * Q);
  int h = p * stride - padding + r, w = q * stride - padding + s;
  T value = from_float<T>(0.0f);
  if (h >= 0 && h < H && w >= 0 && w < W) value = x[((n * H + h) * W + w) * C + c];
  columns[at] = value;
}

template <typename T>
__global__ void col2im(const T* columns, T* grad_x, int N, int H, int W, int C, int R, int S, int P,
                       int Q, int stride, int padding) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * H * W * C) return;
  int c = at % C;
  index_t pixel = at / C;
  int w = pixel % W, h = pixel / W % H;
  index_t n = pixel / ((index_t)W * H);
  float sum = 0.0f;
  for (int r = 0; r < R; r++) {
    int down = h + padding - r;
    if (down < 0 || down % stride || down / stride >= P) continue;
    for (int s = 0; s < S; s++) {
      int right = w + padding - s;
      if (right < 0 || right % stride || right / stride >= Q) continue;
      index_t row = (n * P + down / stride) * Q + right / stride;
      sum += to_float(columns[((row * R + r) * S + s) * C + c]);
    }
  }
  grad_x[at] = from_float<T>(sum);
}

// The small operations on whole activations: addition, ReLU, shortcut A, and memory order.
//
// Idea: one thread per 16 bytes (or per value where the layout is odd), neighbours side by side.
// Bytes: each array is read or written once. Share of the memory roof: not yet measured.
#include "common.cuh"

// out = a + b; `size` is a multiple of V.
template <typename T, int V>
__global__ void add(const T* a, const T* b, T* out, index_t size) {
  index_t at = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (at >= size) return;
  Pack<T, V> left = load<T, V>(a + at), right = load<T, V>(b + at);
#pragma unroll
  for (int i = 0; i < V; i++) {
    left.v[i] = from_float<T>(to_float(left.v[i]) + to_float(right.v[i]));
  }
  store<T, V>(out + at, left);
}

// y = max(x, 0).
template <typename T, int V> __global__ void relu_forward(const T* x, T* y, index_t size) {
  index_t at = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (at >= size) return;
  Pack<T, V> value = load<T, V>(x + at);
#pragma unroll
  for (int i = 0; i < V; i++) {
    float v = to_float(value.v[i]);
    value.v[i] = v < 0.0f ? from_float<T>(0.0f) : value.v[i];  // a NaN stays
  }
  store<T, V>(y + at, value);
}

// grad_x = grad where y > 0, else 0.
template <typename T, int V>
__global__ void relu_backward(const T* grad, const T* y, T* grad_x, index_t size) {
  index_t at = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (at >= size) return;
  Pack<T, V> g = load<T, V>(grad + at), value = load<T, V>(y + at);
#pragma unroll
  for (int i = 0; i < V; i++) {
    if (!(to_float(value.v[i]) > 0.0f)) g.v[i] = from_float<T>(0.0f);
  }
  store<T, V>(grad_x + at, g);
}

// x (N, C, H, W) of any strides, in values, to memory order (N, H, W, width) in another type: the
// channels from C to `width` become zero. Also brings a weight (K, C, R, S) into the order that a
// convolution reads, (K, R, S, C), and its transpose into that of the data gradient.
template <typename From, typename To>
__global__ void pack(const From* x, To* y, int N, int C, int H, int W, int width, index_t stride_n,
                     index_t stride_c, index_t stride_h, index_t stride_w) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * H * W * width) return;
  int c = at % width;
  index_t pixel = at / width;
  int w = pixel % W, h = pixel / W % H;
  index_t n = pixel / ((index_t)W * H);
  float v = 0.0f;
  if (c < C) v = to_float(x[n * stride_n + c * stride_c + h * stride_h + w * stride_w]);
  y[at] = from_float<To>(v);
}

// y (N, P, Q, K): every `stride`-th pixel of x (N, H, W, C) at the channels from `first` on, 0
// around them.
template <typename T>
__global__ void shortcut_forward(const T* x, T* y, int N, int H, int W, int C, int P, int Q, int K,
                                 int stride, int first) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * P * Q * K) return;
  int c = (int)(at % K) - first;
  index_t pixel = at / K;
  int q = pixel % Q, p = pixel / Q % P;
  index_t n = pixel / ((index_t)P * Q);
  T value = from_float<T>(0.0f);
  if (c >= 0 && c < C) value = x[((n * H + p * stride) * W + q * stride) * C + c];
  y[at] = value;
}

// grad_x (N, H, W, C): the gradient (N, P, Q, K) of the copied channels at the picked pixels, 0
// elsewhere.
template <typename T>
__global__ void shortcut_backward(const T* grad, T* grad_x, int N, int H, int W, int C, int P,
                                  int Q, int K, int stride, int first) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)N * H * W * C) return;
  int c = at % C;
  index_t pixel = at / C;
  int w = pixel % W, h = pixel / W % H;
  index_t n = pixel / ((index_t)W * H);
  T value = from_float<T>(0.0f);
  if (h % stride == 0 && w % stride == 0) {
    value = grad[((n * P + h / stride) * Q + w / stride) * K + first + c];
  }
  grad_x[at] = value;
}

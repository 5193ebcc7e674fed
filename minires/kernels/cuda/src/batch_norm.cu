// Batch normalisation, its ReLU and the residual addition, forward and backward.
//
// Idea: an activation in memory order (N, H, W, C) is a matrix of `rows` x `channels`, and all that
// batch norm does happens along columns. A thread owns V neighbouring channels (16 bytes) and walks
// down the rows, so its scale, shift and sums stay in registers and every access is coalesced.
// Who owns what: block (x, y) has the channels x * blockDim.x * V on, and the rows y * slab on. A
// slab gives one partial result per channel; a second small kernel merges the slabs in a fixed
// order, so the bits do not depend on timing. blockDim.x * blockDim.y is THREADS, both powers of 2.
// Bytes: `moments` reads the activation once; `normalize` reads it (and the shortcut) and writes
// it once; `gradient_sums` reads the gradient and the activation (and, with a shortcut, reads the
// output and writes the masked gradient); `input_gradient` reads two and writes one.
// Share of the memory roof: not yet measured.
#include "common.cuh"

#define THREADS 256

// Welford's update of V means and sums of squared deviations by row number `count` (from 1).
template <typename T, int V>
__device__ inline void take_row(const Pack<T, V>& row, float count, float (&mean)[V],
                                float (&square)[V]) {
  float share = 1.0f / count;
#pragma unroll
  for (int i = 0; i < V; i++) {
    float value = to_float(row.v[i]), delta = value - mean[i];
    mean[i] += delta * share;
    square[i] += delta * (value - mean[i]);
  }
}

// Chan, Golub and LeVeque 1979: the moments of two groups together.
__device__ inline void merge(float& count, float& mean, float& square, float count2, float mean2,
                             float square2) {
  float total = count + count2;
  if (total == 0.0f) return;
  float delta = mean2 - mean, share = count2 / total;
  mean += delta * share;
  square += square2 + delta * delta * count * share;
  count = total;
}

// partial (slabs, 2, channels): mean and sum of squared deviations of each slab of x.
template <typename T, int V>
__global__ void __launch_bounds__(THREADS) moments(const T* x, float* partial, int rows,
                                                   int channels, int slab) {
  __shared__ float means[THREADS * V], squares[THREADS * V], counts[THREADS];
  int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  int thread = threadIdx.y * blockDim.x + threadIdx.x;
  int first = blockIdx.y * slab, last = min(rows, first + slab);
  float mean[V] = {}, square[V] = {}, count = 0.0f;
  if (column < channels) {
    for (int row = first + threadIdx.y; row < last; row += blockDim.y) {
      count += 1.0f;
      take_row<T, V>(load<T, V>(x + (index_t)row * channels + column), count, mean, square);
    }
  }
#pragma unroll
  for (int i = 0; i < V; i++) {
    means[i * THREADS + thread] = mean[i];
    squares[i * THREADS + thread] = square[i];
  }
  counts[thread] = count;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) {
      int other = thread + half * blockDim.x;
      float count2 = counts[other];
      float total = count;
#pragma unroll
      for (int i = 0; i < V; i++) {
        total = count;
        merge(total, mean[i], square[i], count2, means[i * THREADS + other],
              squares[i * THREADS + other]);
        means[i * THREADS + thread] = mean[i];
        squares[i * THREADS + thread] = square[i];
      }
      counts[thread] = count = total;
    }
  }
  if (threadIdx.y == 0 && column < channels) {
    float* target = partial + (index_t)blockIdx.y * 2 * channels + column;
#pragma unroll
    for (int i = 0; i < V; i++) {
      target[i] = mean[i];
      target[channels + i] = square[i];
    }
  }
}

#define GROUP_CHANNELS 8
#define GROUP_LANES 32

// Merge `slabs` partial moments of `slab` rows each (the last may have fewer); make batch norm's
// scale and shift, and move the running statistics. Block: (GROUP_CHANNELS, GROUP_LANES); each
// lane merges every GROUP_LANES-th slab. affine (4, channels): mean, inv_std, scale, shift.
__global__ void finish_moments(const float* partial, int slabs, int slab, int rows, int channels,
                               const float* gamma, const float* beta, float* running_mean,
                               float* running_var, float momentum, float eps, float* affine) {
  __shared__ float means[GROUP_LANES][GROUP_CHANNELS], squares[GROUP_LANES][GROUP_CHANNELS];
  __shared__ float counts[GROUP_LANES][GROUP_CHANNELS];
  int tx = threadIdx.x, ty = threadIdx.y, channel = blockIdx.x * GROUP_CHANNELS + tx;
  float count = 0.0f, mean = 0.0f, square = 0.0f;
  if (channel < channels) {
    for (int s = ty; s < slabs; s += GROUP_LANES) {
      const float* source = partial + (index_t)s * 2 * channels + channel;
      merge(count, mean, square, (float)min(slab, rows - s * slab), source[0], source[channels]);
    }
  }
  means[ty][tx] = mean;
  squares[ty][tx] = square;
  counts[ty][tx] = count;
  for (int half = GROUP_LANES / 2; half > 0; half /= 2) {
    __syncthreads();
    if (ty < half) {
      merge(count, mean, square, counts[ty + half][tx], means[ty + half][tx],
            squares[ty + half][tx]);
      means[ty][tx] = mean;
      squares[ty][tx] = square;
      counts[ty][tx] = count;
    }
  }
  if (ty != 0 || channel >= channels) return;
  float variance = square / rows;
  float unbiased = square / max(rows - 1, 1);
  running_mean[channel] += momentum * (mean - running_mean[channel]);
  running_var[channel] += momentum * (unbiased - running_var[channel]);
  float inv_std = rsqrtf(variance + eps), scale = gamma[channel] * inv_std;
  affine[channel] = mean;
  affine[channels + channel] = inv_std;
  affine[2 * channels + channel] = scale;
  affine[3 * channels + channel] = beta[channel] - mean * scale;
}

// The same from the running statistics, which are left alone.
__global__ void running_affine(int channels, const float* gamma, const float* beta,
                               const float* running_mean, const float* running_var, float eps,
                               float* affine) {
  int channel = blockIdx.x * blockDim.x + threadIdx.x;
  if (channel >= channels) return;
  float mean = running_mean[channel], inv_std = rsqrtf(running_var[channel] + eps);
  float scale = gamma[channel] * inv_std;
  affine[channel] = mean;
  affine[channels + channel] = inv_std;
  affine[2 * channels + channel] = scale;
  affine[3 * channels + channel] = beta[channel] - mean * scale;
}

// out = y * scale + shift (+ shortcut), then max(., 0) if `relu`. shortcut may be null.
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    normalize(const T* y, const T* shortcut, T* out, const float* affine, int rows, int channels,
              int relu) {
  int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (column >= channels) return;
  float scale[V], shift[V];
#pragma unroll
  for (int i = 0; i < V; i++) {
    scale[i] = affine[2 * channels + column + i];
    shift[i] = affine[3 * channels + column + i];
  }
  for (int row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
    index_t at = (index_t)row * channels + column;
    Pack<T, V> value = load<T, V>(y + at), extra = {};
    if (shortcut) extra = load<T, V>(shortcut + at);
#pragma unroll
    for (int i = 0; i < V; i++) {
      float v = fmaf(to_float(value.v[i]), scale[i], shift[i]);
      if (shortcut) v += to_float(extra.v[i]);
      value.v[i] = from_float<T>(relu ? fmaxf(v, 0.0f) : v);
    }
    store<T, V>(out + at, value);
  }
}

// What the ReLU let through: everywhere (0), where y * scale + shift > 0 (1), where out > 0 (2).
enum Mask { EVERYWHERE, RECOMPUTED, STORED };

template <typename T, int V>
__device__ inline void mask_gradient(Pack<T, V>& grad, const Pack<T, V>& y, const float (&scale)[V],
                                     const float (&shift)[V]) {
#pragma unroll
  for (int i = 0; i < V; i++) {
    bool on = rounded<T>(fmaf(to_float(y.v[i]), scale[i], shift[i])) > 0.0f;
    grad.v[i] = on ? grad.v[i] : from_float<T>(0.0f);
  }
}

// partial (slabs, 2, channels): sum(g) and sum(g (y - mean)) over each slab, where g is grad behind
// the ReLU. `masked`, where not null, receives g.
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    gradient_sums(const T* grad, const T* y, const T* out, const float* affine, T* masked,
                  float* partial, int rows, int channels, int slab, int mask) {
  __shared__ float sums[2][THREADS * V];
  int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  int thread = threadIdx.y * blockDim.x + threadIdx.x;
  int first = blockIdx.y * slab, last = min(rows, first + slab);
  float mean[V] = {}, scale[V] = {}, shift[V] = {}, plain[V] = {}, product[V] = {};
  if (column < channels) {
#pragma unroll
    for (int i = 0; i < V; i++) {
      mean[i] = affine[column + i];
      scale[i] = affine[2 * channels + column + i];
      shift[i] = affine[3 * channels + column + i];
    }
    for (int row = first + threadIdx.y; row < last; row += blockDim.y) {
      index_t at = (index_t)row * channels + column;
      Pack<T, V> g = load<T, V>(grad + at), value = load<T, V>(y + at);
      if (mask == RECOMPUTED) mask_gradient<T, V>(g, value, scale, shift);
      if (mask == STORED) {
        Pack<T, V> result = load<T, V>(out + at);
#pragma unroll
        for (int i = 0; i < V; i++) {
          if (!(to_float(result.v[i]) > 0.0f)) g.v[i] = from_float<T>(0.0f);
        }
      }
      if (masked) store<T, V>(masked + at, g);
#pragma unroll
      for (int i = 0; i < V; i++) {
        float gradient = to_float(g.v[i]);
        plain[i] += gradient;
        product[i] += gradient * (to_float(value.v[i]) - mean[i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < V; i++) {
    sums[0][i * THREADS + thread] = plain[i];
    sums[1][i * THREADS + thread] = product[i];
  }
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) {
      int other = thread + half * blockDim.x;
#pragma unroll
      for (int i = 0; i < V; i++) {
        plain[i] += sums[0][i * THREADS + other];
        product[i] += sums[1][i * THREADS + other];
        sums[0][i * THREADS + thread] = plain[i];
        sums[1][i * THREADS + thread] = product[i];
      }
    }
  }
  if (threadIdx.y == 0 && column < channels) {
    float* target = partial + (index_t)blockIdx.y * 2 * channels + column;
#pragma unroll
    for (int i = 0; i < V; i++) {
      target[i] = plain[i];
      target[channels + i] = product[i];
    }
  }
}

// Add up the slabs: the gradients of gamma and beta, and the three coefficients (3, channels) of
// grad_y = a g + b y + c. With running statistics nothing flows through them: b = c = 0.
__global__ void finish_gradient(const float* partial, int slabs, int rows, int channels,
                                const float* gamma, const float* affine, int batch_statistics,
                                float* grad_gamma, float* grad_beta, float* coefficients) {
  __shared__ float sums[2][GROUP_LANES][GROUP_CHANNELS];
  int tx = threadIdx.x, ty = threadIdx.y, channel = blockIdx.x * GROUP_CHANNELS + tx;
  float plain = 0.0f, product = 0.0f;
  if (channel < channels) {
    for (int s = ty; s < slabs; s += GROUP_LANES) {
      const float* source = partial + (index_t)s * 2 * channels + channel;
      plain += source[0];
      product += source[channels];
    }
  }
  sums[0][ty][tx] = plain;
  sums[1][ty][tx] = product;
  for (int half = GROUP_LANES / 2; half > 0; half /= 2) {
    __syncthreads();
    if (ty < half) {
      sums[0][ty][tx] = plain += sums[0][ty + half][tx];
      sums[1][ty][tx] = product += sums[1][ty + half][tx];
    }
  }
  if (ty != 0 || channel >= channels) return;
  float mean = affine[channel], inv_std = affine[channels + channel];
  float scale = gamma[channel] * inv_std, weight = product * inv_std;
  float b = batch_statistics ? -scale * inv_std * weight / rows : 0.0f;
  float c = batch_statistics ? -scale * plain / rows - b * mean : 0.0f;
  grad_beta[channel] = plain;
  grad_gamma[channel] = weight;
  coefficients[channel] = scale;
  coefficients[channels + channel] = b;
  coefficients[2 * channels + channel] = c;
}

// target = a g + b y + c, where g is grad, or grad where y * scale + shift > 0 (`mask` RECOMPUTED).
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    input_gradient(const T* grad, const T* y, const float* affine, const float* coefficients,
                   T* target, int rows, int channels, int mask) {
  int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (column >= channels) return;
  float scale[V], shift[V], a[V], b[V], c[V];
#pragma unroll
  for (int i = 0; i < V; i++) {
    scale[i] = affine[2 * channels + column + i];
    shift[i] = affine[3 * channels + column + i];
    a[i] = coefficients[column + i];
    b[i] = coefficients[channels + column + i];
    c[i] = coefficients[2 * channels + column + i];
  }
  for (int row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
    index_t at = (index_t)row * channels + column;
    Pack<T, V> g = load<T, V>(grad + at), value = load<T, V>(y + at);
    if (mask == RECOMPUTED) mask_gradient<T, V>(g, value, scale, shift);
#pragma unroll
    for (int i = 0; i < V; i++) {
      float v = fmaf(to_float(value.v[i]), b[i], c[i]);
      g.v[i] = from_float<T>(fmaf(to_float(g.v[i]), a[i], v));
    }
    store<T, V>(target + at, g);
  }
}

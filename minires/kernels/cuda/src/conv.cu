// Convolution as a matrix product that is never written out: implicit GEMM on tensor cores.
//
// Idea: the forward pass is Y (N P Q, K) = windows (N P Q, R S C) x weight (K, R S C)^T. A block
// owns a TM x TN tile of Y and walks along R S C in steps of 32; the rows of the window matrix are
// gathered straight from x (N, H, W, C) into shared memory with 16-byte asynchronous copies that
// write zeros where a window reaches outside, STAGES steps deep. A warp multiplies its part of the
// tile with mma.sync (16-bit values, float sums). The data gradient is the same kernel: the image
// falls into stride^2 classes of pixels (blockIdx.z) and each is a stride-1 convolution of the
// output gradient with the taps that reach it. With `partial`, the epilogue also leaves mean and
// sum of squared deviations of each tile's columns: batch norm then need not read Y for them.
// The weight gradient reduces over N P Q instead: a block owns a tile of (K, C) at one tap and the
// rows of one slab; slabs are added up afterwards, in a fixed order.
// Bytes: x and weight read about once from memory (R S times from the caches), Y written once.
// Share of the tensor-core roof: not yet measured.
#include "conv.cuh"

#define STEP 32          // the length of one step of the inner product
#define STEP_CHUNKS 4    // in chunks of 8 values, 16 bytes
#define STAGES 3

// y (N, Y, X, K) from x (N, H, W, C) and weight (K, R, S, C); C a multiple of 8. Forward, (Y, X) =
// (P, Q); for the data gradient (`backward`), x is the output gradient, weight its transpose, and
// the grid has stride^2 layers. partial: (row tiles, 2, K) float or null. TM x TN values per block,
// WM x WN of them per warp.
template <typename T, int TM, int TN, int WM, int WN>
__global__ void __launch_bounds__(TM / WM * (TN / WN) * 32, 2)
    convolve(const T* x, const T* weight, T* y, float* partial, int N, int H, int W, int C, int K,
             int R, int S, int Y, int X, int stride, int padding, int backward) {
  constexpr int WARPS_M = TM / WM, WARPS_N = TN / WN, SIZE = WARPS_M * WARPS_N * 32;
  constexpr int MT = WM / 16, NT = WN / 8;
  constexpr int ROWS = (TM * STEP_CHUNKS + SIZE - 1) / SIZE;
  constexpr int COLUMNS = (TN * STEP_CHUNKS + SIZE - 1) / SIZE;
  static_assert(TM * STEP_CHUNKS % SIZE == 0 && SIZE % STEP_CHUNKS == 0 && NT % 2 == 0, "tile");
  DYNAMIC_SHARED(raw);
  uint4* shared = reinterpret_cast<uint4*>(raw);
  constexpr int STAGE = (TM + TN) * STEP_CHUNKS;  // in chunks: a tile of windows, one of weights
  __shared__ float columns[2 * WARPS_M * TN];

  int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  int warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;
  int parity_h = backward ? blockIdx.z / stride : 0, parity_w = backward ? blockIdx.z % stride : 0;
  Axis down = backward ? backward_axis(Y, R, stride, padding, parity_h)
                       : forward_axis(Y, R, stride, padding);
  Axis right = backward ? backward_axis(X, S, stride, padding, parity_w)
                        : forward_axis(X, S, stride, padding);
  int spread = backward ? stride : 1;
  int pixels = down.size * right.size, rows = N * pixels;
  int row0 = blockIdx.x * TM, column0 = blockIdx.y * TN;
  if (row0 >= rows) return;  // the classes of an odd image differ in size

  // What this thread loads in each step: one chunk of ROWS windows and of COLUMNS weights.
  int chunk = thread % STEP_CHUNKS, lead = thread / STEP_CHUNKS;
  int image[ROWS], top[ROWS], left[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    int row = row0 + lead + i * (SIZE / STEP_CHUNKS);
    int n = row / pixels, pixel = row % pixels;
    image[i] = row < rows ? n * H : -1;
    top[i] = pixel / right.size * down.stride + down.origin;
    left[i] = pixel % right.size * right.stride + right.origin;
  }
  int chunks = C / 8, total = down.taps * right.taps * chunks;
  int steps = (total + STEP_CHUNKS - 1) / STEP_CHUNKS;
  int c = chunk, tap_s = 0, tap_r = 0;  // the chunk of the next load
  auto settle = [&] {
    while (c >= chunks && tap_r < down.taps) {
      c -= chunks;
      if (++tap_s == right.taps) tap_s = 0, tap_r++;
    }
  };
  settle();
  auto load_step = [&](int stage) {
    uint4* windows = shared + stage * STAGE;
    uint4* weights = windows + TM * STEP_CHUNKS;
    bool live = tap_r < down.taps;
    int h = down.direction * tap_r, w = right.direction * tap_s;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      int u = top[i] + h, v = left[i] + w;
      bool valid = live && image[i] >= 0 && u >= 0 && u < H && v >= 0 && v < W;
      const T* from = valid ? x + ((index_t)(image[i] + u) * W + v) * C + c * 8 : x;
      int row = lead + i * (SIZE / STEP_CHUNKS);
      copy_async16(windows + swizzled<STEP_CHUNKS>(row, chunk), from, valid);
    }
    int r = down.first + tap_r * down.every, s = right.first + tap_s * right.every;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
      int column = lead + i * (SIZE / STEP_CHUNKS), k = column0 + column;
      if (TN * STEP_CHUNKS % SIZE && column >= TN) break;
      bool valid = live && k < K;
      const T* from = valid ? weight + (((index_t)k * R + r) * S + s) * C + c * 8 : weight;
      copy_async16(weights + swizzled<STEP_CHUNKS>(column, chunk), from, valid);
    }
    c += STEP_CHUNKS;
    settle();
  };

  float sum[MT][NT][4] = {};
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    if (stage < steps) load_step(stage);
    copy_async_commit();
  }
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load_step((step + STAGES - 1) % STAGES);
    copy_async_commit();
    const uint4* windows = shared + step % STAGES * STAGE;
    const uint4* weights = windows + TM * STEP_CHUNKS;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      unsigned a[MT][4], b[NT / 2][4];
#pragma unroll
      for (int i = 0; i < MT; i++) {
        int row = warp_m * WM + i * 16 + lane % 16;
        load_matrices(a[i], windows + swizzled<STEP_CHUNKS>(row, half * 2 + lane / 16));
      }
#pragma unroll
      for (int j = 0; j < NT / 2; j++) {
        int column = warp_n * WN + j * 16 + lane / 16 * 8 + lane % 8;
        load_matrices(b[j], weights + swizzled<STEP_CHUNKS>(column, half * 2 + lane / 8 % 2));
      }
#pragma unroll
      for (int i = 0; i < MT; i++) {
#pragma unroll
        for (int j = 0; j < NT; j++) {
          multiply<T>(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // the pipeline's memory now takes the finished tile

  finish_tile<T, TM, TN, WM, WN, WholeBlock>(sum, reinterpret_cast<T*>(raw), columns, y, partial,
                                             thread, rows, row0, column0, Y, X, K, pixels,
                                             right.size, spread, parity_h, parity_w);
}

// partial (slabs, K, R, S, C) float: the weight gradient over the slabs of `slab` rows (a multiple
// of STEP) of grad (N, P, Q, K) and the windows of x (N, H, W, C); C and K multiples of 8. A block
// owns TM of K and TN of C at one tap. Grid (K tiles, C tiles x R S, slabs).
template <typename T, int TM, int TN, int WM, int WN>
__global__ void __launch_bounds__(TM / WM * (TN / WN) * 32, 2)
    weight_gradient(const T* x, const T* grad, float* partial, int N, int H, int W, int C, int K,
                    int R, int S, int P, int Q, int stride, int padding, int slab) {
  constexpr int WARPS_M = TM / WM, SIZE = WARPS_M * (TN / WN) * 32;
  constexpr int MT = WM / 16, NT = WN / 8, MC = TM / 8, NC = TN / 8;
  constexpr int STAGE = STEP * (MC + NC);
  static_assert(NT % 2 == 0, "tile");
  DYNAMIC_SHARED(raw);
  uint4* shared = reinterpret_cast<uint4*>(raw);
  int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  int warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;
  int tiles = (C + TN - 1) / TN, tap = blockIdx.y / tiles, r = tap / S, s = tap % S;
  int k0 = blockIdx.x * TM, c0 = blockIdx.y % tiles * TN;
  int rows = N * P * Q, first = blockIdx.z * slab, last = min(rows, first + slab);
  int steps = last > first ? (last - first + STEP - 1) / STEP : 0;
  auto load_step = [&](int step) {
    uint4* grads = shared + step % STAGES * STAGE;
    uint4* windows = grads + STEP * MC;
    int base = first + step * STEP;
    for (int item = thread; item < STEP * MC; item += SIZE) {
      int row = item / MC, chunk = item % MC, m = base + row;
      bool valid = m < last && k0 + chunk * 8 < K;
      const T* from = valid ? grad + (index_t)m * K + k0 + chunk * 8 : grad;
      copy_async16(grads + swizzled<MC>(row, chunk), from, valid);
    }
    for (int item = thread; item < STEP * NC; item += SIZE) {
      int row = item / NC, chunk = item % NC, m = base + row;
      int n = m / (P * Q), pixel = m % (P * Q);
      int h = pixel / Q * stride - padding + r, w = pixel % Q * stride - padding + s;
      bool valid = m < last && c0 + chunk * 8 < C && h >= 0 && h < H && w >= 0 && w < W;
      const T* from = valid ? x + (((index_t)n * H + h) * W + w) * C + c0 + chunk * 8 : x;
      copy_async16(windows + swizzled<NC>(row, chunk), from, valid);
    }
  };
  float sum[MT][NT][4] = {};
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    if (stage < steps) load_step(stage);
    copy_async_commit();
  }
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load_step(step + STAGES - 1);
    copy_async_commit();
    const uint4* grads = shared + step % STAGES * STAGE;
    const uint4* windows = grads + STEP * MC;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      unsigned a[MT][4], b[NT / 2][4];
#pragma unroll
      for (int i = 0; i < MT; i++) {  // stored (row, k); wanted (k, row)
        int row = half * 16 + lane / 16 * 8 + lane % 8;
        int chunk = warp_m * (WM / 8) + i * 2 + lane / 8 % 2;
        load_matrices_transposed(a[i], grads + swizzled<MC>(row, chunk));
      }
#pragma unroll
      for (int j = 0; j < NT / 2; j++) {  // stored (row, c); wanted (c, row)
        int row = half * 16 + lane % 16, chunk = warp_n * (WN / 8) + j * 2 + lane / 16;
        load_matrices_transposed(b[j], windows + swizzled<NC>(row, chunk));
      }
#pragma unroll
      for (int i = 0; i < MT; i++) {
#pragma unroll
        for (int j = 0; j < NT; j++) {
          multiply<T>(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
  copy_async_wait<0>();
#pragma unroll
  for (int i = 0; i < MT; i++) {
#pragma unroll
    for (int j = 0; j < NT; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int k = k0 + warp_m * WM + i * 16 + lane / 4 + e / 2 * 8;
        int c = c0 + warp_n * WN + j * 8 + lane % 4 * 2 + e % 2;
        if (k >= K || c >= C) continue;
        partial[((((index_t)blockIdx.z * K + k) * R + r) * S + s) * C + c] = sum[i][j][e];
      }
    }
  }
}

// total (size,) = the sum of partial (slabs, size), in the order of the slabs.
__global__ void add_slabs(const float* partial, float* total, index_t size, int slabs) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= size) return;
  float sum = 0.0f;
  for (int slab = 0; slab < slabs; slab++) sum += partial[(index_t)slab * size + at];
  total[at] = sum;
}

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
#include "ptx.cuh"

#define STEP 32          // the length of one step of the inner product
#define STEP_CHUNKS 4    // in chunks of 8 values, 16 bytes
#define STAGES 3

// One axis of the way from a result's row or column to the input's: input = i * stride + origin +
// direction * tap, and tap number `tap` is the weight's first + tap * every.
struct Axis {
  int size, taps, stride, origin, direction, first, every;
};

__device__ inline Axis forward_axis(int size, int taps, int stride, int padding) {
  return {size, taps, stride, -padding, 1, 0, 1};
}

// The pixels `parity`, parity + stride, ... of the input, reached by every stride-th tap.
__device__ inline Axis backward_axis(int size, int taps, int stride, int padding, int parity) {
  int first = (parity + padding) % stride;
  int reach = first < taps ? (taps - first + stride - 1) / stride : 0;
  int pixels = (size - parity + stride - 1) / stride;
  return {pixels, reach, 1, (parity + padding - first) / stride, -1, first, stride};
}

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
  __shared__ float columns[2][WARPS_M][TN];

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

  constexpr int PITCH = TN + 8;  // values per row; 16 bytes more than a tile's row spread the banks
  T* tile = reinterpret_cast<T*>(raw);
#pragma unroll
  for (int i = 0; i < MT; i++) {
#pragma unroll
    for (int j = 0; j < NT; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int row = warp_m * WM + i * 16 + lane / 4 + e / 2 * 8;
        int column = warp_n * WN + j * 8 + lane % 4 * 2 + e % 2;
        tile[row * PITCH + column] = from_float<T>(sum[i][j][e]);
        sum[i][j][e] = rounded<T>(sum[i][j][e]);
      }
    }
  }
  if (partial) {
    // Per column: its mean first, then the squared deviations from it, each over the valid rows.
    int valid = min(TM, rows - row0);
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
#pragma unroll
      for (int j = 0; j < NT; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          int column = warp_n * WN + j * 8 + lane % 4 * 2 + e;
          float mean = 0.0f, value = 0.0f;
          if (pass == 1) {
            for (int m = 0; m < WARPS_M; m++) mean += columns[0][m][column];
            mean /= valid;
          }
#pragma unroll
          for (int i = 0; i < MT; i++) {
#pragma unroll
            for (int below = 0; below < 2; below++) {
              int row = warp_m * WM + i * 16 + lane / 4 + below * 8;
              float v = sum[i][j][below * 2 + e] - mean;
              if (row < valid) value += pass == 0 ? v : v * v;
            }
          }
          for (int lanes = 16; lanes >= 4; lanes >>= 1) {
            value += __shfl_xor_sync(0xffffffffu, value, lanes);
          }
          if (lane < 4) columns[pass][warp_m][column] = value;
        }
      }
      __syncthreads();
    }
    for (int column = thread; column < TN; column += SIZE) {
      if (column0 + column >= K) continue;
      float mean = 0.0f, square = 0.0f;
      for (int m = 0; m < WARPS_M; m++) {
        mean += columns[0][m][column];
        square += columns[1][m][column];
      }
      float* target = partial + (index_t)blockIdx.x * 2 * K + column0 + column;
      target[0] = mean / valid;
      target[K] = square;
    }
  } else {
    __syncthreads();
  }
  // The tile goes out in chunks of 16 bytes, or value by value where K does not allow them.
  bool whole = K % 8 == 0;
  for (int item = thread; item < TM * (TN / 8); item += SIZE) {
    int row = item / (TN / 8), column = item % (TN / 8) * 8, m = row0 + row;
    if (m >= rows || column0 + column >= K) continue;
    int n = m / pixels, pixel = m % pixels;
    int i = pixel / right.size * spread + parity_h, j = pixel % right.size * spread + parity_w;
    T* target = y + (((index_t)n * Y + i) * X + j) * K + column0 + column;
    const T* source = tile + row * PITCH + column;
    if (whole) {
      store<T, 8>(target, load<T, 8>(source));
    } else {
      for (int e = 0; e < 8 && column0 + column + e < K; e++) target[e] = source[e];
    }
  }
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

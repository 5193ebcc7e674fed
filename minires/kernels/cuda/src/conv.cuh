// What the convolutions on tensor cores share: how a result finds its inputs, and how a tile of
// results leaves the block.
#pragma once
#include "ptx.cuh"

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

// A barrier of all threads of the block.
struct WholeBlock {
  static __device__ inline void wait() { __syncthreads(); }
};

// Values per row of a finished tile: 16 bytes more than the row itself spread the banks.
__device__ constexpr int tile_pitch(int columns) { return columns + 8; }

// Write the TM x TN tile whose first row and column are row0 and column0 to y (N, Y, X, K), by way
// of shared memory, and where `partial` is not null also the mean and the sum of squared deviations
// of its columns: (row tiles, 2, K) float. `sum` holds the part of this thread as `multiply` leaves
// it, for warps of WM x WN values. tile: TM x tile_pitch(TN); columns: 2 x TM / WM x TN. Row m is
// image m / pixels and pixel (m % pixels) / width, (m % pixels) % width of the class of every
// `spread`-th pixel from (parity_h, parity_w). Barrier waits for the threads that call this.
template <typename T, int TM, int TN, int WM, int WN, typename Barrier>
__device__ inline void finish_tile(float (&sum)[WM / 16][WN / 8][4], T* tile, float* columns, T* y,
                                   float* partial, int thread, int rows, int row0, int column0,
                                   int Y, int X, int K, int pixels, int width, int spread,
                                   int parity_h, int parity_w) {
  constexpr int WARPS_M = TM / WM, SIZE = WARPS_M * (TN / WN) * 32, MT = WM / 16, NT = WN / 8;
  constexpr int PITCH = tile_pitch(TN);
  int warp = thread / 32, lane = thread % 32, warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;
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
            for (int m = 0; m < WARPS_M; m++) mean += columns[m * TN + column];
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
          if (lane < 4) columns[(pass * WARPS_M + warp_m) * TN + column] = value;
        }
      }
      Barrier::wait();
    }
    for (int column = thread; column < TN; column += SIZE) {
      if (column0 + column >= K) continue;
      float mean = 0.0f, square = 0.0f;
      for (int m = 0; m < WARPS_M; m++) {
        mean += columns[m * TN + column];
        square += columns[(WARPS_M + m) * TN + column];
      }
      float* target = partial + (index_t)blockIdx.x * 2 * K + column0 + column;
      target[0] = mean / valid;
      target[K] = square;
    }
  } else {
    Barrier::wait();
  }
  // The tile goes out in chunks of 16 bytes, or value by value where K does not allow them.
  bool whole = K % 8 == 0;
  for (int item = thread; item < TM * (TN / 8); item += SIZE) {
    int row = item / (TN / 8), column = item % (TN / 8) * 8, m = row0 + row;
    if (m >= rows || column0 + column >= K) continue;
    int n = m / pixels, pixel = m % pixels;
    int i = pixel / width * spread + parity_h, j = pixel % width * spread + parity_w;
    T* target = y + (((index_t)n * Y + i) * X + j) * K + column0 + column;
    const T* source = tile + row * PITCH + column;
    if (whole) {
      store<T, 8>(target, load<T, 8>(source));
    } else {
      for (int e = 0; e < 8 && column0 + column + e < K; e++) target[e] = source[e];
    }
  }
}

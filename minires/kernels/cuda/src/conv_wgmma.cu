// Convolution as an implicit matrix product on Hopper's tensor cores (sm_90a): the rung above
// conv.cu, which stays its fallback and its oracle.
//
// Idea: as in conv.cu, the rows of the window matrix are gathered from x (N, H, W, C) with 16-byte
// asynchronous copies that write zeros where a window reaches outside. In conv_tma.cu the tensor
// memory accelerator does that, for one tap and 64 channels at a time; these copies do it for any
// number of channels that is a multiple of 8, so this rung serves the narrow layers of a CIFAR
// ResNet too, and it is the fallback and the oracle of that one. The products are wgmma: a
// warpgroup multiplies 64 rows by up to 256 columns straight from shared memory, in rows of 128
// bytes whose chunks are permuted, and the sums stay in registers.
// Who owns what: a block has three warpgroups. The last one only copies, STAGES steps of 64 values
// of the inner dimension ahead: a thread brings one chunk of every 16th row. When its copies have
// landed, they arrive at the stage's barrier `full` by themselves. The first two own 64 rows of the
// tile each; they wait for `full`, start four products, and each warp arrives at `empty` once the
// products of the step before have read their stage.
// The weight gradient reduces over N P Q: its tile is (K, R S C), its inner dimension the rows of
// the output gradient and of the windows, which lie in memory the other way round (COLUMNS_FIRST).
// Bytes: x and weight read about once from memory (R S times from the caches), Y written once.
// Share of the tensor-core roof: not yet measured.
#include "hopper.cuh"

#define PRODUCERS 128  // threads that copy

// The part of a warpgroup that copies: `load(shared memory of the stage)` for each step.
template <int STAGES, int STAGE, typename Load>
__device__ inline void produce(unsigned char* shared, barrier_t* full, barrier_t* empty, int steps,
                               Load load) {
  for (int step = 0; step < steps; step++) {
    int stage = step % STAGES, round = step / STAGES;
    if (round > 0) barrier_wait(empty + stage, round - 1);
    load(reinterpret_cast<uint4*>(shared + stage * STAGE));
    barrier_arrive_after_copies(full + stage);
  }
}

// As `convolve` in conv.cu: y (N, Y, X, K) from x (N, H, W, C) and weight (K, R, S, C), forward and
// for the data gradient; partial (row tiles, 2, K) float or null. 128 x TN values per block.
template <typename T, int TN, int STAGES>
__global__ void __launch_bounds__(CONSUMERS + PRODUCERS, TN < 128 ? 2 : 1)
    convolve_wgmma(const T* x, const T* weight, T* y, float* partial, int N, int H, int W, int C,
                   int K, int R, int S, int Y, int X, int stride, int padding, int backward) {
  constexpr int TM = 128, STAGE = (TM + TN) * ROW_BYTES, LEADS = PRODUCERS / HOPPER_STEP_CHUNKS;
  DYNAMIC_SHARED(raw);
  unsigned char* shared = aligned_shared(raw);
  barrier_t* full = reinterpret_cast<barrier_t*>(shared + STAGES * STAGE);
  barrier_t* empty = full + STAGES;

  int parity_h = backward ? blockIdx.z / stride : 0, parity_w = backward ? blockIdx.z % stride : 0;
  Axis down = backward ? backward_axis(Y, R, stride, padding, parity_h)
                       : forward_axis(Y, R, stride, padding);
  Axis right = backward ? backward_axis(X, S, stride, padding, parity_w)
                        : forward_axis(X, S, stride, padding);
  int pixels = down.size * right.size, rows = N * pixels;
  int row0 = blockIdx.x * TM, column0 = blockIdx.y * TN;
  if (row0 >= rows) return;  // the classes of an odd image differ in size
  int chunks = C / 8, total = down.taps * right.taps * chunks;
  int steps = (total + HOPPER_STEP_CHUNKS - 1) / HOPPER_STEP_CHUNKS;
  start_pipeline<STAGES>(full, empty, PRODUCERS);

  if (threadIdx.x >= CONSUMERS) {
    int thread = threadIdx.x - CONSUMERS;
    int chunk = thread % HOPPER_STEP_CHUNKS, lead = thread / HOPPER_STEP_CHUNKS;
    int image[TM / LEADS], top[TM / LEADS], left[TM / LEADS];
#pragma unroll
    for (int i = 0; i < TM / LEADS; i++) {
      int row = row0 + lead + i * LEADS, n = row / pixels, pixel = row % pixels;
      image[i] = row < rows ? n * H : -1;
      top[i] = pixel / right.size * down.stride + down.origin;
      left[i] = pixel % right.size * right.stride + right.origin;
    }
    int c = chunk, tap_s = 0, tap_r = 0;  // the chunk of the next load
    produce<STAGES, STAGE>(shared, full, empty, steps, [&](uint4* windows) {
      while (c >= chunks && tap_r < down.taps) {
        c -= chunks;
        if (++tap_s == right.taps) tap_s = 0, tap_r++;
      }
      uint4* weights = windows + TM * HOPPER_STEP_CHUNKS;
      bool live = tap_r < down.taps;
      int h = down.direction * tap_r, w = right.direction * tap_s;
#pragma unroll
      for (int i = 0; i < TM / LEADS; i++) {
        int u = top[i] + h, v = left[i] + w;
        bool valid = live && image[i] >= 0 && u >= 0 && u < H && v >= 0 && v < W;
        const T* from = valid ? x + ((index_t)(image[i] + u) * W + v) * C + c * 8 : x;
        copy_async16(windows + swizzled<HOPPER_STEP_CHUNKS>(lead + i * LEADS, chunk), from, valid);
      }
      int r = down.first + tap_r * down.every, s = right.first + tap_s * right.every;
#pragma unroll
      for (int i = 0; i < TN / LEADS; i++) {
        int column = lead + i * LEADS, k = column0 + column;
        bool valid = live && k < K;
        const T* from = valid ? weight + (((index_t)k * R + r) * S + s) * C + c * 8 : weight;
        copy_async16(weights + swizzled<HOPPER_STEP_CHUNKS>(column, chunk), from, valid);
      }
      c += HOPPER_STEP_CHUNKS;
    });
    return;
  }

  float sum[1][TN / 8][4] = {};
  int warpgroup = threadIdx.x / 128;
  consume<T, TN, 0, STAGES, STAGE>(&sum[0][0][0], shared_address(shared), full, empty, steps,
                                   warpgroup * 64 * ROW_BYTES, TM * ROW_BYTES, 32, 0);
  Consumers::wait();  // the pipeline's memory now takes the finished tile
  T* tile = reinterpret_cast<T*>(shared);
  float* columns = reinterpret_cast<float*>(tile + TM * tile_pitch(TN));
  finish_tile<T, TM, TN, 16, TN, Consumers>(sum, tile, columns, y, partial, threadIdx.x, rows, row0,
                                            column0, Y, X, K, pixels, right.size,
                                            backward ? stride : 1, parity_h, parity_w);
}

// partial (slabs, K, R S C) float: the weight gradient over the slabs of `slab` rows (a multiple of
// HOPPER_STEP) of grad (N, P, Q, K) and the windows of x (N, H, W, C); C and K multiples of 8. A
// block owns 64 MW x 64 NW values, its two warpgroups 64 x WN of them each: one below the other
// (MW is 2) or side by side. Grid (K tiles, R S C tiles, slabs).
template <typename T, int MW, int NW, int STAGES>
__global__ void __launch_bounds__(CONSUMERS + PRODUCERS, 1)
    weight_gradient_wgmma(const T* x, const T* grad, float* partial, int N, int H, int W, int C,
                          int K, int R, int S, int P, int Q, int stride, int padding, int slab) {
  constexpr int TM = 64 * MW, TN = 64 * NW, WN = MW == 2 ? TN : TN / 2, PANEL = HOPPER_STEP * 128;
  constexpr int STAGE = (MW + NW) * PANEL, MC = TM / 8, NC = TN / 8;
  static_assert(PRODUCERS % MC == 0 && PRODUCERS % NC == 0, "a thread keeps to its columns");
  DYNAMIC_SHARED(raw);
  unsigned char* shared = aligned_shared(raw);
  barrier_t* full = reinterpret_cast<barrier_t*>(shared + STAGES * STAGE);
  barrier_t* empty = full + STAGES;
  int rows = N * P * Q, first = blockIdx.z * slab, last = min(rows, first + slab);
  int steps = last > first ? (last - first + HOPPER_STEP - 1) / HOPPER_STEP : 0;
  int depth = R * S * C, k0 = blockIdx.x * TM, column0 = blockIdx.y * TN;
  start_pipeline<STAGES>(full, empty, PRODUCERS);

  if (threadIdx.x >= CONSUMERS) {
    int thread = threadIdx.x - CONSUMERS, base = first;
    int k_chunk = thread % MC, c_chunk = thread % NC, column = column0 + c_chunk * 8;
    int c = column % C, s = column / C % S, r = column / C / S;
    produce<STAGES, STAGE>(shared, full, empty, steps, [&](uint4* grads) {
      uint4* windows = grads + MW * (PANEL / 16);
#pragma unroll 4
      for (int row = thread / MC; row < HOPPER_STEP; row += PRODUCERS / MC) {
        int m = base + row;
        bool valid = m < last && k0 + k_chunk * 8 < K;
        const T* from = valid ? grad + (index_t)m * K + k0 + k_chunk * 8 : grad;
        uint4* panel = grads + k_chunk / 8 * (PANEL / 16);
        copy_async16(panel + swizzled<HOPPER_STEP_CHUNKS>(row, k_chunk % 8), from, valid);
      }
#pragma unroll 4
      for (int row = thread / NC; row < HOPPER_STEP; row += PRODUCERS / NC) {
        int m = base + row, n = m / (P * Q), pixel = m % (P * Q);
        int h = pixel / Q * stride - padding + r, w = pixel % Q * stride - padding + s;
        bool valid = m < last && column < depth && h >= 0 && h < H && w >= 0 && w < W;
        const T* from = valid ? x + (((index_t)n * H + h) * W + w) * C + c : x;
        uint4* panel = windows + c_chunk / 8 * (PANEL / 16);
        copy_async16(panel + swizzled<HOPPER_STEP_CHUNKS>(row, c_chunk % 8), from, valid);
      }
      base += HOPPER_STEP;
    });
    return;
  }

  float sum[WN / 2] = {};
  int warpgroup = threadIdx.x / 128, below = MW == 2 ? warpgroup : 0, beside = warpgroup - below;
  consume<T, WN, 1, STAGES, STAGE>(sum, shared_address(shared), full, empty, steps,
                                   below * PANEL, (MW + beside * WN / 64) * PANEL, 16 * ROW_BYTES,
                                   PANEL);
  store_slab<WN>(sum, partial, k0 + below * 64, column0 + beside * WN, K, depth);
}

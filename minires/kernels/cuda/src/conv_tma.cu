// Convolution on Hopper's tensor cores with operands that TMA brings (sm_90a): the rung above
// conv_wgmma.cu, which stays its fallback and its oracle, and serves the narrow layers.
//
// Idea: where a tap has a multiple of 64 channels, a step of the inner product is one tap and 64
// channels, and that is a box of a tensor. So one thread asks for two boxes per step, windows and
// weights, where conv_wgmma.cu has 128 threads that each compute addresses and start copies of 16
// bytes. The borders, the step from a row of pixels to the next and the stride are the tensor
// map's.
// Who owns what: threads 0 to 255 multiply, in two warpgroups, as in conv_wgmma.cu. Thread 256
// copies: it waits for `empty`, tells `full` the bytes that will come, and starts the copies,
// STAGES steps ahead. Its warp has no other work. `full` ends its phase when that thread has
// arrived and all bytes have: (128 + TN) rows of 128 bytes for a convolution, zeros outside of the
// image counted.
// Windows: 128 of them per copy (64 for the weight gradient), in the order of the rows of y. A
// map's box holds the first pixels of all windows of an image; see `Windows` in tensor_maps.py. The
// data gradient with stride 2 is four convolutions (`backward_axis`), with a map each.
// Bytes: as in conv_wgmma.cu.
// Share of the tensor-core roof: not yet measured.
#include "hopper.cuh"
#include "tma.cuh"

#define COPIERS 32  // threads of the warp that copies, of which one does

// What a launch gives: the windows of each class of pixels, and the other factor, a matrix.
struct TensorMaps {
  TensorMap windows[4];
  TensorMap matrix;
};

// Where the window of the result's first row or column begins, and where in a window a tap lies.
__device__ inline int first_pixel(Axis axis) {
  return axis.direction > 0 ? axis.origin : axis.origin - axis.taps + 1;
}
__device__ inline int place_of_tap(Axis axis, int tap) {
  return axis.direction > 0 ? tap : axis.taps - 1 - tap;
}

// The part of the thread that copies: `load(shared memory of the stage, its barrier, the step)`,
// which brings STAGE bytes, for each step.
template <int STAGES, int STAGE, typename Load>
__device__ inline void produce_in_bulk(unsigned char* shared, barrier_t* full, barrier_t* empty,
                                       int steps, Load load) {
  for (int step = 0; step < steps; step++) {
    int stage = step % STAGES, round = step / STAGES;
    if (round > 0) barrier_wait(empty + stage, round - 1);
    barrier_arrive_expecting(full + stage, STAGE);
    load(shared + stage * STAGE, full + stage, step);
  }
}

// As `convolve_wgmma`, for C a multiple of 64 and a stride of at most 2: y (N, Y, X, K) from the
// windows of x (N, H, W, C) and weight (K, R S C), forward and for the data gradient; partial (row
// tiles, 2, K) float or null. 128 x TN values per block.
template <typename T, int TN, int STAGES>
__global__ void __launch_bounds__(CONSUMERS + COPIERS, TN < 128 ? 2 : 1)
    convolve_tma(const __grid_constant__ TensorMaps maps, T* y, float* partial, int N, int C, int K,
                 int R, int S, int Y, int X, int stride, int padding, int backward) {
  constexpr int TM = 128, STAGE = (TM + TN) * ROW_BYTES;
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
  int chunks = C / HOPPER_STEP, steps = down.taps * right.taps * chunks;
  start_pipeline<STAGES>(full, empty, 1);

  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x > CONSUMERS) return;
    const TensorMap* windows = maps.windows + blockIdx.z;
    int n = row0 / pixels, pixel = row0 % pixels;
    int h = pixel / right.size * down.stride + first_pixel(down);
    int w = pixel % right.size * right.stride + first_pixel(right);
    produce_in_bulk<STAGES, STAGE>(
        shared, full, empty, steps, [&](unsigned char* at, barrier_t* barrier, int step) {
          int c = step % chunks * HOPPER_STEP, tap = step / chunks;
          int tap_r = tap / right.taps, tap_s = tap % right.taps;
          copy_windows(at, windows, barrier, c, w, h, n, place_of_tap(right, tap_s),
                       place_of_tap(down, tap_r));
          int r = down.first + tap_r * down.every, s = right.first + tap_s * right.every;
          copy_matrix(at + TM * ROW_BYTES, &maps.matrix, barrier, (r * S + s) * C + c, column0);
        });
    return;
  }

  float sum[1][TN / 8][4] = {};
  int warpgroup = threadIdx.x / 128;
  consume<T, TN, 0, STAGES, STAGE, true>(&sum[0][0][0], shared_address(shared), full, empty, steps,
                                         warpgroup * 64 * ROW_BYTES, TM * ROW_BYTES, 32, 0);
  Consumers::wait();  // the pipeline's memory now takes the finished tile
  T* tile = reinterpret_cast<T*>(shared);
  float* columns = reinterpret_cast<float*>(tile + TM * tile_pitch(TN));
  finish_tile<T, TM, TN, 16, TN, Consumers>(sum, tile, columns, y, partial, threadIdx.x, rows, row0,
                                            column0, Y, X, K, pixels, right.size,
                                            backward ? stride : 1, parity_h, parity_w);
}

// As `weight_gradient_wgmma`, for C a multiple of 64: partial (slabs, K, R S C) float from the
// matrix grad (N P Q, K) and the windows of x (N, H, W, C), 64 rows per step. A panel of 64 columns
// is one tap and 64 channels; those beyond the last tap bring it again, and nobody stores their
// sums.
template <typename T, int MW, int NW, int STAGES>
__global__ void __launch_bounds__(CONSUMERS + COPIERS, 1)
    weight_gradient_tma(const __grid_constant__ TensorMaps maps, float* partial, int N, int C,
                        int K, int R, int S, int P, int Q, int stride, int padding, int slab) {
  constexpr int WN = MW == 2 ? 64 * NW : 32 * NW, PANEL = HOPPER_STEP * ROW_BYTES;
  constexpr int STAGE = (MW + NW) * PANEL;
  DYNAMIC_SHARED(raw);
  unsigned char* shared = aligned_shared(raw);
  barrier_t* full = reinterpret_cast<barrier_t*>(shared + STAGES * STAGE);
  barrier_t* empty = full + STAGES;
  int rows = N * P * Q, first = blockIdx.z * slab, last = min(rows, first + slab);
  int steps = last > first ? (last - first + HOPPER_STEP - 1) / HOPPER_STEP : 0;
  int depth = R * S * C, k0 = blockIdx.x * 64 * MW, column0 = blockIdx.y * 64 * NW;
  start_pipeline<STAGES>(full, empty, 1);

  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x > CONSUMERS) return;
    produce_in_bulk<STAGES, STAGE>(
        shared, full, empty, steps, [&](unsigned char* at, barrier_t* barrier, int step) {
          int row = first + step * HOPPER_STEP, n = row / (P * Q), pixel = row % (P * Q);
          int h = pixel / Q * stride - padding, w = pixel % Q * stride - padding;
          for (int i = 0; i < MW; i++) {
            copy_matrix(at + i * PANEL, &maps.matrix, barrier, k0 + i * 64, row);
          }
          for (int j = 0; j < NW; j++) {
            int column = min(column0 + j * 64, depth - 64), tap = column / C;
            copy_windows(at + (MW + j) * PANEL, maps.windows, barrier, column % C, w, h, n, tap % S,
                         tap / S);
          }
        });
    return;
  }

  float sum[WN / 2] = {};
  int warpgroup = threadIdx.x / 128, below = MW == 2 ? warpgroup : 0, beside = warpgroup - below;
  consume<T, WN, 1, STAGES, STAGE, true>(sum, shared_address(shared), full, empty, steps,
                                         below * PANEL, (MW + beside * WN / 64) * PANEL,
                                         16 * ROW_BYTES, PANEL);
  store_slab<WN>(sum, partial, k0 + below * 64, column0 + beside * WN, K, depth);
}

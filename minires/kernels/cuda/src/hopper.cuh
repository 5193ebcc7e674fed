// What the convolutions on Hopper's tensor cores share: a block is divided into threads that copy
// and threads that multiply, and here is what the latter do. The copies are those of conv_wgmma.cu,
// or the bulk copies of conv_tma.cu.
#pragma once
#include "conv.cuh"
#include "wgmma.cuh"

#define HOPPER_STEP 64        // the length of one step of the inner product
#define HOPPER_STEP_CHUNKS 8  // in chunks of 8 values, 16 bytes
#define CONSUMERS 256         // threads that multiply; as many rows of 64 as warpgroups

// A barrier of the threads that multiply.
struct Consumers {
  static __device__ inline void wait() { barrier_of_threads<1, CONSUMERS>(); }
};

// The dynamic shared memory from its first multiple of 1024 on, where the permutation starts.
__device__ inline unsigned char* aligned_shared(unsigned char* raw) {
  return raw + (1024 - shared_address(raw) % 1024) % 1024;
}

// Thread 0 makes the barriers of the stages, and all wait for it: `full` ends a phase after so many
// `arrivals` of those that copy, `empty` after one of each warp that multiplies.
template <int STAGES>
__device__ inline void start_pipeline(barrier_t* full, barrier_t* empty, int arrivals) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_start(full + stage, arrivals);
      barrier_start(empty + stage, CONSUMERS / 32);
    }
    publish_shared();  // bulk copies count on the barriers
  }
  __syncthreads();
}

// The part of a warpgroup that multiplies: sum (64, N) += a b over all steps. `left` and `right`
// are the bytes from the stage to its matrices, and `advance` those from one product to the next.
// What BULK copies have written needs no fence: they belong to the async proxy as the products do.
template <typename T, int N, int COLUMNS_FIRST, int STAGES, int STAGE, bool BULK = false>
__device__ inline void consume(float* sum, unsigned shared, barrier_t* full, barrier_t* empty,
                               int steps, int left, int right, int advance, int panel) {
  if (steps == 0) return;
  int step = 0;
#pragma unroll 1  // and a loop that runs once at least: else ptxas runs the products one by one
  do {
    int stage = step % STAGES;
    unsigned base = shared + stage * STAGE;
    barrier_wait(full + stage, step / STAGES);
    if constexpr (!BULK) publish_shared();
    products_begin();
#pragma unroll
    for (int part = 0; part < HOPPER_STEP / 16; part++) {
      unsigned a = base + left + part * advance, b = base + right + part * advance;
      if constexpr (COLUMNS_FIRST) {
        multiply_async<T, N, 1>(sum, matrix_in_columns(a, panel), matrix_in_columns(b, panel));
      } else {
        multiply_async<T, N, 0>(sum, matrix_in_rows(a), matrix_in_rows(b));
      }
    }
    products_commit();
    hold<N / 2>(sum);
    products_wait<1>();
    if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + (step - 1) % STAGES);
  } while (++step < steps);
  products_wait<0>();
  hold<N / 2>(sum);
}

// Write what a warpgroup has summed of a weight gradient, 64 x WN values from (k0, column0) on, to
// its slab of partial (slabs, K, depth).
template <int WN>
__device__ inline void store_slab(const float* sum, float* partial, int k0, int column0, int K,
                                  int depth) {
  int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
#pragma unroll
  for (int j = 0; j < WN / 8; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int k = k0 + warp * 16 + lane / 4 + e / 2 * 8;
      int column = column0 + j * 8 + lane % 4 * 2 + e % 2;
      if (k < K && column < depth) {
        partial[((index_t)blockIdx.z * K + k) * depth + column] = sum[j * 4 + e];
      }
    }
  }
}

// The small things between the large ones, so that a whole training step is made of launches:
// gradients brought to their place, biases, sums of columns, the totals of an epoch, the factor of
// clipping, and the numbers that change from step to step.
//
// Idea: one thread per value, or one block where the order of a sum must be fixed.
// Bytes: each array is read and written once. Share of the memory roof: not yet measured.
#include "common.cuh"

#define EACH(i, size)                                                            \
  for (index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x; i < (size);   \
       i += (index_t)gridDim.x * blockDim.x)

// target <- values, or target + values.
__global__ void copy_values(float* target, const float* values, index_t size, int add) {
  EACH(i, size) target[i] = add ? target[i] + values[i] : values[i];
}

#define PIECES 128

struct Pieces {
  float* targets[PIECES];
  const float* values[PIECES];
  index_t sizes[PIECES];
};

// Each target <- its values: blockIdx.y counts the arrays. The table comes by value, so that a
// captured graph keeps it.
__global__ void copy_pieces(Pieces pieces) {
  float* target = pieces.targets[blockIdx.y];
  const float* values = pieces.values[blockIdx.y];
  EACH(i, pieces.sizes[blockIdx.y]) target[i] = values[i];
}

// y (rows, K) <- y + bias (K,).
template <typename T> __global__ void add_bias(T* y, const float* bias, index_t size, int K) {
  EACH(i, size) y[i] = from_float<T>(to_float(y[i]) + bias[i % K]);
}

// sums (slabs, K): the sums of `slab` rows of x (rows, K). Block: (32, 8) threads for 32 columns.
template <typename T>
__global__ void __launch_bounds__(256)
    column_sums(const T* x, float* sums, int rows, int K, int slab) {
  __shared__ float parts[8][32];
  int k = blockIdx.x * 32 + threadIdx.x;
  index_t first = (index_t)blockIdx.y * slab;
  index_t last = first + slab < rows ? first + slab : rows;
  float sum = 0.0f;
  if (k < K) {
    for (index_t row = first + threadIdx.y; row < last; row += 8) sum += to_float(x[row * K + k]);
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && k < K) {
    for (int y = 1; y < 8; y++) sum += parts[y][threadIdx.x];
    sums[(index_t)blockIdx.y * K + k] = sum;
  }
}

// The class of the largest of K values, the first of equals; for all lanes of a warp.
template <typename T> __device__ inline int largest(const T* row, int K, int lane) {
  float best = minus_infinity();
  int place = K;
  for (int k = lane; k < K; k += 32) {
    float v = to_float(row[k]);
    if (v > best || place == K) best = v, place = k;
  }
  for (int lanes = 16; lanes > 0; lanes >>= 1) {
    float v = __shfl_xor_sync(0xffffffffu, best, lanes);
    int other = __shfl_xor_sync(0xffffffffu, place, lanes);
    if (other < K && (place == K || v > best || (v == best && other < place))) {
      best = v, place = other;
    }
  }
  return place;
}

// totals (2,) += N * loss, and the number of rows of logits (N, K) whose largest stands at the label,
// or at the largest of the shares (N, K); labels or shares is null. One block of 32 warps.
template <typename T>
__global__ void __launch_bounds__(1024)
    count_batch(const T* logits, const index_t* labels, const float* shares, const float* loss,
                double* totals, int N, int K) {
  __shared__ int counts[32];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, hits = 0;
  for (int n = warp; n < N; n += 32) {
    int found = largest(logits + (index_t)n * K, K, lane);
    int wanted = labels ? (int)labels[n] : largest(shares + (index_t)n * K, K, lane);
    hits += found == wanted;
  }
  if (lane == 0) counts[warp] = hits;
  __syncthreads();
  if (threadIdx.x == 0) {
    int all = 0;
    for (int i = 0; i < 32; i++) all += counts[i];
    totals[0] += (double)*loss * N;
    totals[1] += all;
  }
}

// total () = a + b + c + d, from left to right. One thread.
__global__ void add_squares(const double* a, const double* b, const double* c, const double* d,
                            double* total) {
  *total = *a + *b + *c + *d;
}

// norm () = the root of the sum of squares, of which all but the first may be null; factor () =
// min(1, limit / (norm + 1e-6)). One thread.
__global__ void clip_factor(const double* a, const double* b, const double* c, const double* d,
                            float limit, double* norm, float* factor) {
  double sum = *a + (b ? *b : 0.0) + (c ? *c : 0.0) + (d ? *d : 0.0);
  double root = sqrt(sum), share = limit / (root + 1e-6);
  *norm = root;
  *factor = (float)(share < 1.0 ? share : root == root ? 1.0 : root);
}

// values (count,), counters (2,) and kept (size,) <- indices: what changes from step to step. One
// block.
__global__ void set_numbers(float* values, int count, index_t* counters, index_t step,
                            index_t epoch, index_t* kept, const index_t* indices, int size, float a,
                            float b, float c, float d, float e, float f, float g, float h) {
  for (int i = threadIdx.x; i < size; i += blockDim.x) kept[i] = indices[i];
  if (threadIdx.x > 0) return;
  float given[8] = {a, b, c, d, e, f, g, h};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (i < count) values[i] = given[i];
  }
  counters[0] = step;
  counters[1] = epoch;
}

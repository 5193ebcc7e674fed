// Softmax cross-entropy with label smoothing.
//
// Idea: a warp owns a row of logits: its largest, its sum of exponentials and its loss are sums
// over lanes. One block does the whole batch, so the mean is added up in a fixed order within one
// launch; the rows are few and short. Bytes: logits read three times (from the cache, after the
// first), probabilities and targets written once. Share of the roof: not yet measured.
#include "common.cuh"

// probabilities, targets (N, K) float, loss () float: logits (N, K), and either labels (N,) or
// shares (N, K), the other null. One block of 32 warps.
template <typename T>
__global__ void __launch_bounds__(1024)
    cross_entropy(const T* logits, const index_t* labels, const float* shares,
                  float* probabilities, float* targets, float* loss, int N, int K,
                  float smoothing) {
  __shared__ float sums[32];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  float sum = 0.0f;
  for (int n = warp; n < N; n += warps) {
    const T* row = logits + (index_t)n * K;
    float largest = minus_infinity(), total = 0.0f, part = 0.0f;
    for (int k = lane; k < K; k += 32) largest = fmaxf(largest, to_float(row[k]));
    largest = warp_max(largest);
    for (int k = lane; k < K; k += 32) total += expf(to_float(row[k]) - largest);
    total = warp_sum(total);
    float log_total = logf(total);
    for (int k = lane; k < K; k += 32) {
      float z = to_float(row[k]) - largest;
      float share = shares ? shares[(index_t)n * K + k] : k == labels[n] ? 1.0f : 0.0f;
      float target = smoothing / K + share * (1.0f - smoothing);
      probabilities[(index_t)n * K + k] = expf(z) / total;
      targets[(index_t)n * K + k] = target;
      part += target * (z - log_total);
    }
    sum += warp_sum(part);
  }
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    float all = warp_sum(lane < warps ? sums[lane] : 0.0f);
    if (lane == 0) *loss = -all / N;
  }
}

// grad_logits = (probabilities - targets) / N.
template <typename T>
__global__ void cross_entropy_gradient(const float* probabilities, const float* targets, T* grad,
                                       index_t size, int N) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at < size) grad[at] = from_float<T>((probabilities[at] - targets[at]) / N);
}

// The updates of the optimizers over flat buffers: one launch, whatever the number of parameters.
//
// Idea: parameters, gradients and slots lie in flat arrays of one shape, so a thread owns the same
// index of all of them. What changes from step to step may come from device memory, for a captured
// graph: where a pointer is not null, the value beside it is not looked at. Where `skip` is not null
// and *skip not 0, the update is left out.
// Bytes per parameter, read + written: sgd 12 + 8, adam 16 + 12, rmsprop 12 + 8 (and 4 + 4 for each
// further slot), average 8 + 4, scale and clip 4 + 4, sum_of_squares 4 + 0.
// Share of the memory roof: not yet measured.
#include "common.cuh"

#define EACH(i, size)                                                            \
  for (index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x; i < (size);   \
       i += (index_t)gridDim.x * blockDim.x)

// functional.optimizer.sgd_step; `rate` and `inertia` are lr and momentum in device memory, or null.
__global__ void sgd(float* weights, const float* grads, float* velocity, index_t size,
                    const float* rate, float lr, const float* inertia, float momentum,
                    float weight_decay, int nesterov, const float* skip) {
  if (skip && *skip != 0.0f) return;
  if (rate) lr = *rate;
  if (inertia) momentum = *inertia;
  EACH(i, size) {
    float w = weights[i], g = fmaf(weight_decay, w, grads[i]);
    float v = fmaf(momentum, velocity[i], g);
    velocity[i] = v;
    weights[i] = w - lr * (nesterov ? fmaf(momentum, v, g) : v);
  }
}

// functional.optimizer.adam_step; `count` is the number of the update and `inertia` beta1, both in
// device memory, or null.
__global__ void adam(float* weights, const float* grads, float* mean, float* square, index_t size,
                     const float* rate, float lr, const index_t* count, index_t step,
                     const float* inertia, double beta1, double beta2, float eps,
                     float weight_decay, int decoupled, const float* skip) {
  if (skip && *skip != 0.0f) return;
  if (inertia) beta1 = *inertia;
  __shared__ float corrections[2];
  if (threadIdx.x == 0) {  // in double: 1 - beta^step cancels
    double number = (double)(count ? *count : step);
    corrections[0] = (float)(1.0 / (1.0 - pow(beta1, number)));
    corrections[1] = (float)(1.0 / sqrt(1.0 - pow(beta2, number)));
  }
  __syncthreads();
  if (rate) lr = *rate;
  float share1 = (float)(1.0 - beta1), share2 = (float)(1.0 - beta2), keep2 = (float)beta2;
  float pace = lr * corrections[0], root = corrections[1];
  EACH(i, size) {
    float w = weights[i], g = grads[i];
    if (decoupled) {
      w *= 1.0f - lr * weight_decay;
    } else {
      g = fmaf(weight_decay, w, g);
    }
    float m = fmaf(share1, g - mean[i], mean[i]);
    float s = fmaf(share2 * g, g, keep2 * square[i]);
    mean[i] = m;
    square[i] = s;
    weights[i] = w - pace * (m / fmaf(sqrtf(s), root, eps));
  }
}

// functional.optimizer.rmsprop_step; mean and velocity may be null.
__global__ void rmsprop(float* weights, const float* grads, float* square, float* mean,
                        float* velocity, index_t size, const float* rate, float lr, double alpha,
                        float eps, float weight_decay, const float* inertia, float momentum,
                        const float* skip) {
  if (skip && *skip != 0.0f) return;
  if (rate) lr = *rate;
  if (inertia) momentum = *inertia;
  float share = (float)(1.0 - alpha), keep = (float)alpha;
  EACH(i, size) {
    float w = weights[i], g = fmaf(weight_decay, w, grads[i]);
    float s = fmaf(share * g, g, keep * square[i]), spread = s;
    square[i] = s;
    if (mean) {
      float m = fmaf(share, g - mean[i], mean[i]);
      mean[i] = m;
      spread = fmaxf(fmaf(-m, m, s), 0.0f);  // rounding may leave less than nothing
    }
    float d = g / (sqrtf(spread) + eps);
    if (velocity) velocity[i] = d = fmaf(momentum, velocity[i], d);
    weights[i] = w - lr * d;
  }
}

// average <- average + share * (values - average); with `decay` in device memory, share is 1 - it.
__global__ void average(float* averages, const float* values, index_t size, const float* decay,
                        float share) {
  if (decay) share = 1.0f - *decay;
  EACH(i, size) averages[i] = fmaf(share, values[i] - averages[i], averages[i]);
}

// values <- factor * values; `device_factor`: the same in device memory, or null.
__global__ void scale(float* values, const float* device_factor, float factor, index_t size) {
  if (device_factor) factor = *device_factor;
  EACH(i, size) values[i] *= factor;
}

// values <- min(max(values, -limit), limit); a NaN stays.
__global__ void clip(float* values, float limit, index_t size) {
  EACH(i, size) {
    float v = values[i];
    values[i] = v < -limit ? -limit : v > limit ? limit : v;
  }
}

#define SUM_THREADS 256

// The sum over the threads of a block, in a fixed order; for thread 0.
__device__ inline double block_sum(double sum) {
  __shared__ double sums[SUM_THREADS];
  sums[threadIdx.x] = sum;
  for (int half = SUM_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

// partial (blocks,): each block's sum of squares, which `finish_sum` adds up.
__global__ void __launch_bounds__(SUM_THREADS)
    sum_of_squares(const float* values, double* partial, index_t size) {
  double sum = 0.0;
  EACH(i, size) sum += (double)values[i] * values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// total () = the sum of partial (count,). One block.
__global__ void __launch_bounds__(SUM_THREADS)
    finish_sum(const double* partial, double* total, int count) {
  double sum = 0.0;
  EACH(i, count) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = sum;
}

// Dynamic loss scaling, all in device memory: see functional/loss_scaling.py.
//
// Idea: one pass divides the gradients and looks for infinity and NaN; whoever finds one writes the
// same 1, so no atomics are needed. Then one thread moves the scale.
// Bytes: 4 read and 4 written per gradient. Share of the roof: not yet measured.
#include "common.cuh"

// values <- values / *scale; *found <- 1 if one of them is infinite or NaN.
__global__ void unscale(float* values, index_t size, const float* scale, float* found) {
  float inverse = (float)(1.0 / (double)*scale);
  bool bad = false;
  for (index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x; i < size;
       i += (index_t)gridDim.x * blockDim.x) {
    float v = values[i];
    bad = bad || !(fabsf(v) <= 3.402823466e38f);
    values[i] = v * inverse;
  }
  if (bad) *found = 1.0f;
}

// One thread.
__global__ void update_scale(float* scale, int* good_steps, float* found, float growth,
                             float backoff, int interval) {
  int steps = *good_steps + 1;
  if (*found > 0.0f) {
    *scale *= backoff;
    steps = 0;
  } else if (steps == interval) {
    float larger = *scale * growth;
    if (fabsf(larger) <= 3.402823466e38f) *scale = larger;
    steps = 0;
  }
  *good_steps = steps;
  *found = 0.0f;
}

// *count <- *count + 1 unless *skip. One thread.
__global__ void count_update(index_t* count, const float* skip) {
  if (*skip == 0.0f) *count += 1;
}

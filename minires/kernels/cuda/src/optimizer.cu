// The update of SGD over a flat buffer that holds all parameters: one launch, whatever their number.
//
// Idea: parameters, gradients and velocities lie in three flat arrays, so a thread owns one index
// of all three. Bytes: 12 read and 8 written per parameter. Share of the roof: not yet measured.
#include "common.cuh"

// In place; `rate`, where not null, is the learning rate in device memory (for a captured graph),
// and `lr` is not looked at.
__global__ void sgd(float* weights, const float* grads, float* velocity, index_t size,
                    const float* rate, float lr, float momentum, float weight_decay, int nesterov) {
  if (rate) lr = *rate;
  for (index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x; i < size;
       i += (index_t)gridDim.x * blockDim.x) {
    float w = weights[i], g = fmaf(weight_decay, w, grads[i]);
    float v = fmaf(momentum, velocity[i], g);
    velocity[i] = v;
    weights[i] = w - lr * (nesterov ? fmaf(momentum, v, g) : v);
  }
}

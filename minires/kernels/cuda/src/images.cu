// From stored images to a batch: draw, gather, crop, flip, normalise.
//
// Idea: images stay uint8 on the device; a thread owns one output pixel, works out where it comes
// from, and looks its values up in the table of normalised values, so all devices give the same
// bits. The draws are the counter-based hash of functional/random.py, bit for bit.
// Bytes: one byte read and one value written for each of the batch's values. Share of the roof: not
// yet measured.
#include "random.cuh"

// offsets (B, 2), flips (B,): the crop and the flip of images `indices`; `state` is the hash of
// (seed, stream); counter and epoch: see `draw_at`.
__global__ void draw(bits_t state, const index_t* counter, index_t epoch, const index_t* indices,
                     index_t* offsets, unsigned char* flips, int B, int padding, int flip) {
  int b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= B) return;
  bits_t image = draw_bits(draw_at(state, counter, epoch), indices[b]), span = 2 * padding + 1;
  offsets[2 * b] = below(draw_bits(image, 0), span);
  offsets[2 * b + 1] = below(draw_bits(image, 1), span);
  flips[b] = flip && heads(draw_bits(image, 2));
}

// taken (B,) = the labels of images `indices`.
__global__ void take_labels(const index_t* labels, const index_t* indices, index_t* taken, int B) {
  int b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b < B) taken[b] = labels[indices[b]];
}

#define MAX_CHANNELS 8

// x (B, H, W, C) = the window at offsets of image indices[b] of images (N, C, H, W), with `padding`
// pixels of the mean colour around it, mirrored where flips says. offsets and flips may be null.
// table (C, 256). Block: 256 threads; a warp finds the mean colour of a channel: the entry of the
// table nearest to 0, the first of equals.
template <typename T>
__global__ void __launch_bounds__(256)
    augment(const unsigned char* images, const index_t* indices, const float* table,
            const index_t* offsets, const unsigned char* flips, T* x, int B, int C, int H, int W,
            int padding) {
  __shared__ float fill[MAX_CHANNELS];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int c = warp; c < C; c += 8) {
    float best = fabsf(table[c * 256 + lane]);
    int place = lane;
    for (int value = lane + 32; value < 256; value += 32) {
      float size = fabsf(table[c * 256 + value]);
      if (size < best) best = size, place = value;
    }
    for (int lanes = 16; lanes > 0; lanes >>= 1) {
      float size = __shfl_xor_sync(0xffffffffu, best, lanes);
      int value = __shfl_xor_sync(0xffffffffu, place, lanes);
      if (size < best || (size == best && value < place)) best = size, place = value;
    }
    if (lane == 0) fill[c] = table[c * 256 + place];
  }
  __syncthreads();
  index_t pixel = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= (index_t)B * H * W) return;
  int j = pixel % W, i = pixel / W % H;
  index_t b = pixel / ((index_t)W * H);
  if (flips && flips[b]) j = W - 1 - j;
  if (offsets) {
    i += (int)offsets[2 * b] - padding;
    j += (int)offsets[2 * b + 1] - padding;
  }
  bool inside = i >= 0 && i < H && j >= 0 && j < W;
  for (int c = 0; c < C; c++) {
    float v = fill[c];
    if (inside) v = table[c * 256 + images[((indices[b] * C + c) * H + i) * W + j]];
    x[pixel * C + c] = from_float<T>(v);
  }
}

// Changes of a normalised batch: colour jitter, cutout, mixup and cutmix, and their draws.
//
// Idea: a thread owns one value of the batch (B, H, W, C) and works out which image and pixel it
// belongs to; for the draws it owns one image. The numbers are those of the reference bit for bit:
// products and sums are rounded one by one, as there.
// Bytes: each batch is read once and the result written once. Share of the roof: not yet measured.
#include "random.cuh"

// As in functional/distortion.py and functional/mixing.py: numbers of the draws.
enum { CUTOUT_ROW = 3, CUTOUT_COLUMN, CONTRAST, BRIGHTNESS, SHARE, KIND, ROW, COLUMN, ORDER,
       WHETHER };

// contrast, brightness (B,). `state` is the hash of (seed, stream), here and below; counter and
// epoch: see `draw_at`.
__global__ void draw_jitter(bits_t state, const index_t* counter, index_t epoch,
                            const index_t* indices, float* contrast, float* brightness, int B,
                            float strength) {
  int b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= B) return;
  bits_t image = draw_bits(draw_at(state, counter, epoch), indices[b]);
  float first = uniform(draw_bits(image, CONTRAST)) * 2.0f - 1.0f;  // exact
  float second = uniform(draw_bits(image, BRIGHTNESS)) * 2.0f - 1.0f;
  contrast[b] = __fadd_rn(__fmul_rn(first, strength), 1.0f);
  brightness[b] = __fmul_rn(second, strength);
}

// centers (B, 2): row and column.
__global__ void draw_cutout(bits_t state, const index_t* counter, index_t epoch,
                            const index_t* indices, index_t* centers, int B, int H, int W) {
  int b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= B) return;
  bits_t image = draw_bits(draw_at(state, counter, epoch), indices[b]);
  centers[2 * b] = below(draw_bits(image, CUTOUT_ROW), H);
  centers[2 * b + 1] = below(draw_bits(image, CUTOUT_COLUMN), W);
}

// y = x * contrast[b] + brightness[b] * white[c].
template <typename T>
__global__ void color_jitter(const T* x, const float* contrast, const float* brightness,
                             const float* white, T* y, int B, int pixels, int C) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)B * pixels * C) return;
  int c = at % C;
  index_t b = at / ((index_t)pixels * C);
  float v = __fmul_rn(to_float(x[at]), contrast[b]);
  y[at] = from_float<T>(__fadd_rn(v, __fmul_rn(brightness[b], white[c])));
}

// y = x, and 0 in the square of side `size` about centers[b].
template <typename T>
__global__ void cutout(const T* x, const index_t* centers, T* y, int B, int H, int W, int C,
                       int size) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)B * H * W * C) return;
  int j = at / C % W, i = at / ((index_t)C * W) % H;
  index_t b = at / ((index_t)C * W * H);
  index_t down = i - centers[2 * b] + size / 2, right = j - centers[2 * b + 1] + size / 2;
  bool inside = down >= 0 && down < size && right >= 0 && right < size;
  y[at] = inside ? from_float<T>(0.0f) : x[at];
}

#define TILE 256

// partner (B,), blend (B,), boxes (B, 4), share (B,): see functional/mixing.py. The partner of an
// image is the one with the next larger key, a hash, or the smallest after the largest; a block
// holds TILE keys at a time and its TILE threads look for theirs. Tables (4096,) may be null.
__global__ void __launch_bounds__(TILE)
    draw_mixing(bits_t state, const index_t* counter, index_t epoch, const index_t* indices,
                const float* mixup_table, const float* cutmix_table, index_t* partner, float* blend,
                index_t* boxes, float* share, int B, int H, int W, float taken) {
  __shared__ bits_t keys[TILE];
  state = draw_at(state, counter, epoch);
  int b = blockIdx.x * TILE + threadIdx.x;
  bits_t image = draw_bits(state, indices[min(b, B - 1)]), key = draw_bits(image, ORDER);
  bits_t next_key = 0, least_key = 0;
  int next = -1, least = -1;
  for (int first = 0; first < B; first += TILE) {
    int mine = first + threadIdx.x;
    __syncthreads();
    if (mine < B) keys[threadIdx.x] = draw_bits(draw_bits(state, indices[mine]), ORDER);
    __syncthreads();
    for (int i = 0; i < TILE && first + i < B; i++) {
      bits_t other = keys[i];
      bool later = other > key || (other == key && first + i > b);
      if (later && (next < 0 || other < next_key)) next = first + i, next_key = other;
      if (least < 0 || other < least_key) least = first + i, least_key = other;
    }
  }
  if (b >= B) return;
  partner[b] = next < 0 ? least : next;

  bool mixed = uniform(draw_bits(image, WHETHER)) < taken, coin = heads(draw_bits(image, KIND));
  int place = (int)(draw_bits(image, SHARE) >> 52);
  bool blends = mixed && (coin || !cutmix_table), pastes = mixed && (!coin || !mixup_table);
  float own = mixup_table && blends ? mixup_table[place] : 1.0f, area = 1.0f;
  float side = cutmix_table && pastes ? sqrtf(1.0f - cutmix_table[place]) : 0.0f;
  for (int axis = 0; axis < 2; axis++) {
    int length = axis ? W : H, half = (int)(side * length) / 2;
    int center = (int)below(draw_bits(image, axis ? COLUMN : ROW), length);
    int start = max(center - half, 0), end = min(center + half, length);
    if (!cutmix_table) start = end = 0;
    boxes[4 * b + 2 * axis] = start;
    boxes[4 * b + 2 * axis + 1] = end;
    area *= end - start;
  }
  blend[b] = own;
  share[b] = own * (1.0f - area / (float)(H * W));
}

// y[b] = x[places[b]]: images of `size` values.
template <typename T>
__global__ void take_images(const T* x, const index_t* places, T* y, int B, int size) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at < (index_t)B * size) y[at] = x[places[at / size] * size + at % size];
}

// y = blend[b] * x + (1 - blend[b]) * others.
template <typename T>
__global__ void mixup(const T* x, const T* others, const float* blend, T* y, int B, int size) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)B * size) return;
  float own = blend[at / size];
  float v = __fmul_rn(to_float(x[at]), own);
  y[at] = from_float<T>(__fadd_rn(v, __fmul_rn(to_float(others[at]), 1.0f - own)));
}

// y = others inside of boxes[b], x outside.
template <typename T>
__global__ void cutmix(const T* x, const T* others, const index_t* boxes, T* y, int B, int H, int W,
                       int C) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)B * H * W * C) return;
  int j = at / C % W, i = at / ((index_t)C * W) % H;
  const index_t* box = boxes + at / ((index_t)C * W * H) * 4;
  bool inside = i >= box[0] && i < box[1] && j >= box[2] && j < box[3];
  y[at] = inside ? others[at] : x[at];
}

// targets (B, K): share[b] at the image's label plus 1 - share[b] at its partner's.
__global__ void mixed_targets(const index_t* labels, const index_t* partner, const float* share,
                              float* targets, int B, int K) {
  index_t at = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (index_t)B * K) return;
  index_t b = at / K, k = at % K;
  float own = labels[b] == k ? share[b] : 0.0f;
  targets[at] = own + (labels[partner[b]] == k ? 1.0f - share[b] : 0.0f);
}

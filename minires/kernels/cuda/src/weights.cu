// The weights of all convolutions in a 16-bit type, in the two orders in which they are read.
//
// Idea: one launch for all layers: a block finds its layer in a table, and turns a tile of 32 x 32
// weights of one place in the window by way of shared memory, so that both stores are coalesced.
// Bytes: 4 read and 4 written per weight. Share of the roof: not yet measured.
#include "common.cuh"

#define TILE 32
#define CHUNK 8

// A row of the table: the layer's first tile, the address of its weights (K, RS, C), K, C, RS, and
// where its copies (K, RS, C') and (C, RS, K') begin in `values`; C' and K' are C and K filled up to
// whole chunks with zeros.
struct Layer {
  index_t first, address, K, C, RS, forward, backward;
};

// Block: (32, 8) threads; one block for each tile.
template <typename T>
__global__ void __launch_bounds__(256) copy_weights(const Layer* layers, int count, T* values) {
  __shared__ float tile[TILE][TILE + 1];
  int low = 0, high = count - 1;
  while (low < high) {  // the last layer that begins at or before this block
    int middle = (low + high + 1) / 2;
    if (layers[middle].first <= (index_t)blockIdx.x) low = middle;
    else high = middle - 1;
  }
  const Layer layer = layers[low];
  const float* weights = reinterpret_cast<const float*>(layer.address);
  int K = (int)layer.K, C = (int)layer.C, RS = (int)layer.RS;
  int wide_K = (K + CHUNK - 1) / CHUNK * CHUNK, wide_C = (C + CHUNK - 1) / CHUNK * CHUNK;
  int at = (int)(blockIdx.x - layer.first), across = (C + TILE - 1) / TILE;
  int c0 = at % across * TILE, rs = at / across % RS, k0 = at / across / RS * TILE;
  int x = threadIdx.x;
  for (int y = threadIdx.y; y < TILE; y += 8) {
    int k = k0 + y, c = c0 + x;
    float v = k < K && c < C ? weights[((index_t)k * RS + rs) * C + c] : 0.0f;
    tile[y][x] = v;
    if (k < K && c < wide_C) {
      values[layer.forward + ((index_t)k * RS + rs) * wide_C + c] = from_float<T>(v);
    }
  }
  __syncthreads();
  for (int y = threadIdx.y; y < TILE; y += 8) {
    int c = c0 + y, k = k0 + x;
    if (c < C && k < wide_K) {
      values[layer.backward + ((index_t)c * RS + rs) * wide_K + k] = from_float<T>(tile[x][y]);
    }
  }
}

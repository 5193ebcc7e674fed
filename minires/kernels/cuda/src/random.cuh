// The counter-based generator of functional/random.py, bit for bit.
#pragma once
#include "common.cuh"

typedef unsigned long long bits_t;

__device__ inline bits_t mix(bits_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// The hash of `state`, which is the hash of the coordinates so far, and one coordinate more.
__device__ inline bits_t draw_bits(bits_t state, bits_t coordinate) {
  return mix(state + coordinate * 0x9E3779B97F4A7C15ull + 1ull);
}

// The same for a number of a step or an epoch: it is `*counter`, where that is not null, for a
// captured graph, else `number`.
__device__ inline bits_t draw_at(bits_t state, const index_t* counter, index_t number) {
  return draw_bits(state, counter ? *counter : number);
}

// In [0, 1): the top 24 bits.
__device__ inline float uniform(bits_t bits) { return (float)(bits >> 40) * 0x1p-24f; }

// From 0 to span - 1.
__device__ inline index_t below(bits_t bits, bits_t span) {
  return (index_t)((bits >> 32) * span >> 32);
}

__device__ inline bool heads(bits_t bits) { return bits >> 63; }

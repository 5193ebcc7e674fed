// What all kernels share: the three number types, 16-byte loads and stores, and sums over lanes.
//
// Activations are float, __half or __nv_bfloat16; every sum and every statistic is float.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifdef MINIRES_CPU_TWIN
#include "cpu_twin.h"
#else
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

typedef long long index_t;

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(__half v) { return __half2float(v); }
__device__ inline float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T> __device__ inline T from_float(float v);
template <> __device__ inline float from_float<float>(float v) { return v; }
template <> __device__ inline __half from_float<__half>(float v) { return __float2half_rn(v); }
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// The value that a T holds after rounding: what a later kernel will read.
template <typename T> __device__ inline float rounded(float v) {
  return to_float(from_float<T>(v));
}

// V neighbouring values: 16 bytes moved at once, or a single value for odd channel counts.
template <typename T, int V> struct Pack {
  T v[V];
};

template <typename T, int V> __device__ inline Pack<T, V> load(const T* p) {
  Pack<T, V> pack;
  if constexpr (V == 1) {
    pack.v[0] = *p;
  } else {
    static_assert(sizeof(pack) == 16, "vectors are 16 bytes");
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(p);
  }
  return pack;
}

template <typename T, int V> __device__ inline void store(T* p, const Pack<T, V>& pack) {
  if constexpr (V == 1) {
    *p = pack.v[0];
  } else {
    *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&pack);
  }
}

__device__ inline float minus_infinity() { return __int_as_float(0xff800000); }

__device__ inline float warp_sum(float v) {
  for (int lanes = 16; lanes > 0; lanes >>= 1) v += __shfl_xor_sync(0xffffffffu, v, lanes);
  return v;
}

__device__ inline float warp_max(float v) {
  for (int lanes = 16; lanes > 0; lanes >>= 1) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, lanes));
  }
  return v;
}

// bfloat16, for the CPU: the upper half of a float, rounded to nearest even.
#pragma once
#include <cstdint>
#include <cstring>
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 h) {
  uint32_t wide = (uint32_t)h.bits << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  uint32_t wide;
  std::memcpy(&wide, &f, 4);
  if ((wide & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {(uint16_t)((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16)};
}

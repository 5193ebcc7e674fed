// The instructions that C++ has no word for: asynchronous copies, matrix loads, tensor cores.
//
// Each has a CPU twin of the same name (cpu_twin.h of the tests), so that the kernels that use them
// run, lane by lane, where there is no GPU. All of them need sm_80 or later.
#pragma once
#include "common.cuh"

#ifndef MINIRES_CPU_TWIN

__device__ inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Start copying 16 bytes from global to shared memory; where not `valid`, write zeros and read
// nothing.
__device__ inline void copy_async16(void* shared, const void* global, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}

// Close the group of copies that this thread started since the last commit.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Wait until at most GROUPS of this thread's groups are still under way.
template <int GROUPS> __device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS) : "memory");
}

// Four 8x8 matrices of 16-bit values; lane 8 i + r gives the address of row r of matrix i. Lane l
// receives, of each matrix, the two values at row l / 4, columns 2 (l % 4) and the next.
__device__ inline void load_matrices(unsigned (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(unsigned (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}

// d (16, 8) += a (16, 16) b (16, 8). Lane l holds of d the rows l / 4 and l / 4 + 8, columns
// 2 (l % 4) and the next: d[0], d[1] of the first row, d[2], d[3] of the second.
template <typename T>
__device__ inline void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__device__ inline void multiply<__half>(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                        unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply<__nv_bfloat16>(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                               unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

// Where chunk `chunk` (16 bytes) of row `row` of a tile lies, in chunks, when a row has CHUNKS of
// them: permuted so that eight rows read at one column touch all 32 banks once.
template <int CHUNKS> __device__ inline int swizzled(int row, int chunk) {
  static_assert(CHUNKS == 2 || CHUNKS == 4 || CHUNKS % 8 == 0, "a tile's row in chunks");
  constexpr int mask = CHUNKS >= 8 ? 7 : CHUNKS - 1;
  constexpr int shift = CHUNKS >= 8 ? 0 : CHUNKS == 4 ? 1 : 2;
  return row * CHUNKS + (chunk ^ ((row >> shift) & mask));
}

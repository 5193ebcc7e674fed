// The instructions of Hopper (sm_90a): barriers that count arrivals in shared memory, and products
// that a warpgroup of 128 threads starts and that read their matrices from shared memory.
//
// Each has a CPU twin of the same name (wgmma_twin.h of the tests).
#pragma once
#include "ptx.cuh"

#ifdef MINIRES_CPU_TWIN
#include "wgmma_twin.h"
#else

typedef unsigned long long barrier_t;  // in shared memory, 8 bytes

// Let a phase of the barrier end when `count` arrivals have come. By one thread, before others use it.
__device__ inline void barrier_start(barrier_t* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)),
               "r"(count)
               : "memory");
}

__device__ inline void barrier_arrive(barrier_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier))
               : "memory");
}

// Arrive as soon as all copies that this thread has started are there, without waiting for them.
__device__ inline void barrier_arrive_after_copies(barrier_t* barrier) {
  asm volatile(
      "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(shared_address(barrier))
      : "memory");
}

// Wait until phase number `phase` (the first is 0) has ended; the one after it has not.
__device__ inline void barrier_wait(barrier_t* barrier, int phase) {
  unsigned done;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(phase & 1)
        : "memory");
  } while (!done);
}

// Wait for `count` threads of the block (a multiple of 32); `name` is 1 to 15.
template <int name, int count> __device__ inline void barrier_of_threads() {
  asm volatile("bar.sync %0, %1;\n" ::"n"(name), "n"(count) : "memory");
}

// What this thread has written to shared memory, and its copies that it has waited for, becomes
// visible to what works on its own there (PTX: the async proxy): to products and to bulk copies.
__device__ inline void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// Before the first product, and after the sums were touched.
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

// Close the group of products that were started since the last commit.
__device__ inline void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// Wait until at most GROUPS groups are under way.
template <int GROUPS> __device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(GROUPS) : "memory");
}

// Keep the compiler from moving sums about while products are under way.
template <int COUNT> __device__ inline void hold(float* sum) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(sum[i])::"memory");
}

template <typename T> struct IsHalf {
  static constexpr bool value = false;
};
template <> struct IsHalf<__half> {
  static constexpr bool value = true;
};

// The names of the registers, as text and as operands.
#define NAMES_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define NAMES_16 NAMES_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_32                                                                                  \
  NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_64                                                                                  \
  NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52" \
           ",%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES_128                                                                                 \
  NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84" \
           ",%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104" \
           ",%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121" \
           ",%122,%123,%124,%125,%126,%127"
#define SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_8(d, i) SUMS_4(d, i), SUMS_4(d, i + 4)
#define SUMS_16(d, i) SUMS_8(d, i), SUMS_8(d, i + 8)
#define SUMS_32(d, i) SUMS_16(d, i), SUMS_16(d, i + 16)
#define SUMS_64(d, i) SUMS_32(d, i), SUMS_32(d, i + 32)
#define SUMS_128(d, i) SUMS_64(d, i), SUMS_64(d, i + 64)
#define PRODUCT(TYPE, N, COUNT, A, B, ORDER)                                              \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {"       \
               NAMES_##COUNT "}, %" #A ", %" #B ", 1, 1, 1, %" #ORDER ", %" #ORDER ";\n" \
               : SUMS_##COUNT(d, 0)                                                       \
               : "l"(a), "l"(b), "n"(COLUMNS_FIRST))
#define PRODUCT_OF(N, COUNT, A, B, ORDER)                                                      \
  if constexpr (IsHalf<T>::value) PRODUCT("f16", N, COUNT, A, B, ORDER);                       \
  else PRODUCT("bf16", N, COUNT, A, B, ORDER)

// Start d (64, N) += a (64, 16) b (16, N) by the 128 threads of a warpgroup; a and b are matrices
// that `matrix_in_rows` or, with COLUMNS_FIRST, `matrix_in_columns` describes. Thread t holds the
// rows 16 (t / 32) + t % 32 / 4 and 8 below it, and of every 8 columns 2 (t % 4) and the next:
// d[4 j], d[4 j + 1] of the first row, d[4 j + 2], d[4 j + 3] of the second.
template <typename T, int N, int COLUMNS_FIRST>
__device__ inline void multiply_async(float* d, unsigned long long a, unsigned long long b) {
  if constexpr (N == 16) {
    PRODUCT_OF(16, 8, 8, 9, 10);
  } else if constexpr (N == 32) {
    PRODUCT_OF(32, 16, 16, 17, 18);
  } else if constexpr (N == 64) {
    PRODUCT_OF(64, 32, 32, 33, 34);
  } else if constexpr (N == 128) {
    PRODUCT_OF(128, 64, 64, 65, 66);
  } else {
    static_assert(N == 256, "columns of a product");
    PRODUCT_OF(256, 128, 128, 129, 130);
  }
}

#endif

#define ROW_BYTES 128  // the row of a tile: 64 values, whose chunks `swizzled<8>` permutes

// Describe a matrix that lies in shared memory in rows of 64 values of the inner dimension, 8 rows
// to every 1024 bytes, chunks permuted in all rows as by `swizzled<8>`. `address`: of the first
// value; the rows' permutation starts at a multiple of 1024.
__device__ inline unsigned long long matrix_in_rows(unsigned address) {
  return (unsigned long long)((address & 0x3ffff) >> 4) | 1ull << 16 |
         (unsigned long long)(8 * ROW_BYTES >> 4) << 32 | 1ull << 62;
}

// The same for rows of 64 values of the *outer* dimension: row i holds place i of the inner one.
// The next 64 values of the outer dimension lie `panel` bytes further on.
__device__ inline unsigned long long matrix_in_columns(unsigned address, int panel) {
  return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(panel >> 4) << 16 |
         (unsigned long long)(8 * ROW_BYTES >> 4) << 32 | 1ull << 62;
}

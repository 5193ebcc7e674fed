// Bulk copies by the tensor memory accelerator (TMA) of Hopper: one thread names a box of a tensor,
// and the box arrives in shared memory by itself, in rows of 128 bytes whose chunks are permuted as
// by `swizzled<8>`. What the tensor is, a tensor map says: 128 bytes that the driver has made
// (tensor_maps.py), which arrive as a kernel's argument.
//
// From the PTX ISA. "cp.async.bulk.tensor": the map lies in parameter, constant or global memory;
// when a copy is done, the barrier is told the bytes that were copied. "Im2col mode, Bounding Box":
// coordinates are C, W, H, N, those of W and H name the filter's corner and lie within the box of
// the map; offsets of the tap are not negative and below 256, W before H; so many pixels as the map
// says are taken, and they count on through the box, row by row and image by image. "Traversal
// Stride": by steps of the stride along W and H. "Out of Boundary Access": zeros.
// Zeros are written and counted like anything else: CUTLASS and Triton (its tutorial on im2col,
// where windows reach outside) expect the bytes of whole boxes.
//
// Each has a CPU twin of the same name (tma_twin.h of the tests).
#pragma once
#include "wgmma.cuh"

struct alignas(128) TensorMap {  // as in cuda.h of CUDA 13; 64 in that of 12
  unsigned char opaque[128];
};

#ifdef MINIRES_CPU_TWIN
#include "tma_twin.h"
#else

// Arrive, and let the phase end no sooner than so many bytes of bulk copies have come.
__device__ inline void barrier_arrive_expecting(barrier_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// Start copying the box of a matrix whose first value is at (row, column).
__device__ inline void copy_matrix(void* shared, const TensorMap* map, barrier_t* barrier,
                                   int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];\n" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}

// Start copying one tap and the channels from c on of the windows from the one at (n, h, w) on: the
// place of the window's first pixel, to which the tap's place in the window is added.
__device__ inline void copy_windows(void* shared, const TensorMap* map, barrier_t* barrier, int c,
                                    int w, int h, int n, int tap_w, int tap_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};\n" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n),
      "h"((unsigned short)tap_w), "h"((unsigned short)tap_h)
      : "memory");
}

#endif

"""Kernels for NumPy arrays. Importing this package registers them.

What they share: float32 arrays in memory order (H, W, N, C), of which the logical shape stays
(N, C, H, W); a pool of buffers that are used again; and Python threads that each take a slice of
the images, with BLAS at one thread each.
"""

import threadpoolctl

from minires import backend
from minires.kernels.cpu import batch_norm, blocks, buffers, conv2d, dropout, fused, pooling, simple

backend.report_scratch("cpu", buffers.pool.nbytes, buffers.pool.forget_peak)
threadpoolctl.threadpool_limits(1, user_api="blas")

__all__ = ["batch_norm", "blocks", "conv2d", "dropout", "fused", "pooling", "simple"]

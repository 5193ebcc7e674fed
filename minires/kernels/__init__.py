"""Faster code for some operations; each package registers its kernels when it is imported."""

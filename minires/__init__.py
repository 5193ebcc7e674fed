"""minires: residual networks on CIFAR-10 with every derivative written by hand."""

__version__ = "0.1.0"

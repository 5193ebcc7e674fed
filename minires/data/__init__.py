"""Images: find, read or draw them, split them, and hand them on in batches."""

from minires.data.dataset import (
    Dataset,
    find_data,
    fingerprint,
    load_dataset,
    number_of_classes,
)
from minires.data.loader import AugmentConfig, Loader
from minires.data.normalization import Normalization, compute_normalization
from minires.data.split import split_validation

__all__ = [
    "AugmentConfig",
    "Dataset",
    "Loader",
    "Normalization",
    "compute_normalization",
    "find_data",
    "fingerprint",
    "load_dataset",
    "number_of_classes",
    "split_validation",
]

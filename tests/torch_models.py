"""The torch.nn networks of `minires.analysis.torch_models`, for tests.

Use it as `torch_models = pytest.importorskip("torch_models")`: without torch the test is skipped.
"""

from __future__ import annotations

import torch

from minires.analysis.torch_models import TorchResNet, build_torch, randomize, to_arrays

torch.set_num_threads(1)  # the tests' networks are tiny: threads would only wait for each other

__all__ = ["TorchResNet", "build_torch", "randomize", "to_arrays"]

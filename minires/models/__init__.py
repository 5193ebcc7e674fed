"""Networks by name: the ResNet families, ResNet-9, plain CNNs and one for transfer."""

from minires.models.freezing import freeze
from minires.models.network import Network
from minires.models.registry import build, model_names, name_for_depth
from minires.models.summary import LayerSummary, Summary, summarize

__all__ = [
    "LayerSummary",
    "Network",
    "Summary",
    "build",
    "freeze",
    "model_names",
    "name_for_depth",
    "summarize",
]

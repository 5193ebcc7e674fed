"""Networks by name: the ResNet families and their plain twins."""

from minires.models.registry import build, model_names, name_for_depth
from minires.models.summary import LayerSummary, Summary, summarize

__all__ = ["LayerSummary", "Summary", "build", "model_names", "name_for_depth", "summarize"]

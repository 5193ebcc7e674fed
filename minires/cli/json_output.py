"""What `--json` prints: one object, and JSON that every reader takes."""

from __future__ import annotations

import json
import math
from typing import Any


def print_json(record: dict[str, Any]) -> None:
    """Print `record` on one line; NaN and infinity, which JSON does not have, become null."""
    print(json.dumps(_finite(record), allow_nan=False))


def _finite(value: Any) -> Any:
    """`value` with None for each float that is NaN or infinite."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

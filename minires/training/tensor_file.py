"""Safetensors files as NumPy arrays and text: read, checked, and written whole or not at all.

The format is a length (8 bytes), a JSON header with names, types, shapes and positions, and the
bytes. Nothing in it can run. Source: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minires.atomic import write_atomically
from minires.errors import CheckpointError

_NUMPY_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?",
}  # fmt: skip


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of the safetensors file `path`, sorted by name, and its metadata.

    Arrays are writable copies in the file's own type; bfloat16, which NumPy lacks, becomes float32
    (exactly). Raises `CheckpointError` for a file that is missing, truncated or something else.
    """
    from safetensors import SafetensorError, deserialize

    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is not a file")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        entries = sorted(deserialize(content), key=lambda entry: entry[0])
        header_size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + header_size]).get("__metadata__") or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({_one_line(error)}); {_looks_like(content)}"
        ) from error
    return {name: _to_array(path, name, entry) for name, entry in entries}, metadata


def _to_array(path: Path, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    kind = entry["dtype"]
    if kind not in _NUMPY_TYPES:
        raise CheckpointError(f"{path}: {name} is of type {kind}, which minires cannot read")
    array = np.frombuffer(entry["data"], _NUMPY_TYPES[kind]).reshape(entry["shape"])
    if kind == "BF16":  # the upper half of a float32
        return (array.astype("<u4") << 16).view("<f4")
    return array


def _looks_like(content: bytes) -> str:
    """What a file that is no safetensors file may be, and what to do about it."""
    if not content:
        return "it is empty"
    if content[:2] in (b"PK", b"\x80\x02"):
        return "it looks like a PyTorch pickle; save it again with safetensors.torch.save_file"
    return "it may be truncated or of another kind"


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path` as safetensors: a kill at any moment leaves the old or the new.

    Raises `CheckpointError` if that fails; an earlier file then is as it was.
    """
    from safetensors.numpy import save

    # asarray, because ascontiguousarray would give a 0-d array one axis
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    content = save(whole, metadata=dict(metadata) if metadata else None)
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({_hint(error)})") from error


def _hint(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{reason}; free some space, the earlier file is intact"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{reason}; choose a folder that you may write to"
    return reason


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

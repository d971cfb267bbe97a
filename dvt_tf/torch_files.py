"""PyTorch checkpoint files as plain data: weights by name, and the figures that the published one comes with.

PyTorch is needed only here, and only while a file is read. A file is data: one that asks for code is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Where checkpoints keep weights: DVT's files, those of timm and T2T-ViT, DeiT's.
RAW_ENTRIES = ("model_state_dict", "state_dict", "model")
EMA_ENTRIES = ("state_dict_ema", "model_ema")
WEIGHTS = ("ema", "raw")
# What DVT's files hold beside the weights: GFLOPs and top-1 (percent) of each exit, thresholds of each setting and
# exit, and the settings' mean GFLOPs and top-1.
FIGURES = ("flops", "anytime_classification", "dynamic_threshold", "budgeted_batch_classification")

# Before it, a crafted file can run code in spite of weights_only (CVE-2025-32434, CVE-2026-24747).
_OLDEST_TORCH = (2, 10)
# What PyTorch's restricted reader raises on damaged files.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)


class TorchCheckpoint(NamedTuple):
    """What a checkpoint file holds.

    path: the file. sha256: of the file, hexadecimal. entry: where the weights were, "" for a file of nothing else.
    weights: `"ema"` for shadow weights (an exponential moving average), else `"raw"`.
    state: published name -> array, float32. figures: those of `FIGURES` that there are, float64.
    """

    path: Path
    sha256: str
    entry: str
    weights: str
    state: dict[str, np.ndarray]
    figures: dict[str, np.ndarray]


def read_checkpoint(path: Path, weights: str | None = None) -> TorchCheckpoint:
    """Reads the weights of a PyTorch checkpoint, in the zip format or the older one.

    Args:
        path: a file that `torch.save` wrote: a dictionary with the weights in one of `RAW_ENTRIES` or `EMA_ENTRIES`, or
            the weights alone; names may all begin with `module.`, which is taken off.
        weights: `"ema"` or `"raw"`; by default the shadow weights where there are any.

    Raises:
        FileNotFoundError: no such file.
        ValueError: PyTorch is missing or too old, the file is no checkpoint or a damaged one, asks for code to be run,
            or does not hold those weights.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a checkpoint file (.pth, .pt, .pth.tar)")
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, not a PyTorch checkpoint")
    torch = _torch(path)
    content = _load(path, torch)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; a checkpoint is a dictionary with weights by name")
    entry, kind, state = _find_weights(content, weights, path)
    return TorchCheckpoint(
        path=path,
        sha256=_sha256(path),
        entry=entry,
        weights=kind,
        state=_without_module({str(name): _array(value, f"{path}: {name}", torch) for name, value in state.items()}),
        figures={key: _figure(content[key], f"{path}: {key}", torch) for key in FIGURES if key in content},
    )


def _load(path: Path, torch: Any) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_allowed())):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise ValueError(
                f"{path} is refused, and nothing in it was run: it asks for {asked[1]}, and weights need no such thing"
            ) from error
        raise ValueError(f"{path} is not a PyTorch checkpoint, or a damaged or truncated one") from error


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"reading {path} needs PyTorch: pip install torch, or pip install 'dvt-tf[pytorch]' "
            "(in a clone: make setup PYTORCH=1)"
        ) from error
    if tuple(int(part) for part in str(torch.__version__).split(".")[:2]) < _OLDEST_TORCH:
        wanted = ".".join(map(str, _OLDEST_TORCH))
        raise ValueError(
            f"PyTorch {torch.__version__} does not read files safely enough: pip install 'torch>={wanted}'"
        )
    return torch


def _allowed() -> Iterator[Any]:
    """What a file may hold beside tensors and plain values: NumPy's numbers and arrays of them, parsed arguments."""
    yield argparse.Namespace
    yield np.ndarray, "numpy.ndarray"
    yield np.dtype, "numpy.dtype"
    yield from {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    for name, function in (
        ("_reconstruct", np.zeros(0).__reduce__()[0]),
        ("scalar", np.float64(0).__reduce__()[0]),
    ):
        for core in ("core", "_core"):  # NumPy 1 and 2
            yield function, f"numpy.{core}.multiarray.{name}"


def _find_weights(content: Mapping[Any, Any], weights: str | None, path: Path) -> tuple[str, str, Mapping[Any, Any]]:
    """The entry that holds the weights, which ones they are, and the weights."""
    found = {
        "ema": [key for key in EMA_ENTRIES if isinstance(content.get(key), Mapping)],
        "raw": [key for key in RAW_ENTRIES if isinstance(content.get(key), Mapping)],
    }
    kind = weights or ("ema" if found["ema"] else "raw")
    if found[kind]:
        entry = found[kind][0]
        return entry, kind, content[entry]
    if any(found.values()):
        raise ValueError(f"{path} holds no {kind} weights; it has {', '.join(found['ema'] + found['raw'])}")
    if content and all(hasattr(value, "shape") for value in content.values()):
        if kind == "ema":
            raise ValueError(f"{path} holds one set of weights and does not say that they are ema weights")
        return "", "raw", content
    strange = [str(key) for key, value in content.items() if not hasattr(value, "shape")]
    if len(strange) < len(content) / 2:
        raise ValueError(f"{path} holds weights and, beside them, what is no array: {', '.join(strange[:3])}")
    keys = ", ".join(str(key) for key in list(content)[:8]) or "nothing"
    raise ValueError(f"{path} holds no weights: none of {', '.join((*RAW_ENTRIES, *EMA_ENTRIES))} is in it, but {keys}")


def _array(value: Any, name: str, torch: Any) -> np.ndarray:
    """A tensor or NumPy array of any real number type as float32."""
    try:
        if isinstance(value, torch.Tensor) and not value.is_complex():
            value = value.detach().float().numpy()  # bfloat16 has no NumPy type
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
            return np.asarray(value, np.float32)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a plain array of numbers") from error
    kind = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
    raise ValueError(f"{name} is a {kind}, not an array of real numbers")


def _figure(value: Any, name: str, torch: Any) -> np.ndarray:
    """Numbers in lists, tensors or arrays as one float64 array."""

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return plain(value.detach().tolist())
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    try:
        return np.asarray(plain(value), np.float64)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a list or table of numbers") from error


def _without_module(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes off what torch's DataParallel writes before every name."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): array for name, array in state.items()}
    return state


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

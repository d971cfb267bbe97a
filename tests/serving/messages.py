"""The server's messages and arrays: TensorProto to NumPy and back, without TensorFlow."""

from __future__ import annotations

import importlib.util
import math
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.serving.batching import INVALID_ARGUMENT, ServingError
from tests.serving.tf_c_api import NUMBERS, TYPES, package_folder

# The messages are files below the package `tensorflow`, whose own start takes seconds and is not needed for them.
if "tensorflow" not in sys.modules:
    _spec = importlib.util.find_spec("tensorflow")
    _empty = types.ModuleType("tensorflow")
    _empty.__path__, _empty.__spec__ = [str(package_folder())], _spec
    sys.modules["tensorflow"] = _empty

from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow_serving.apis import prediction_log_pb2

# Where a TensorProto keeps its values when they are not in `tensor_content`, by the number of the type.
_FIELDS = {1: "float_val", 3: "int_val", 4: "int_val", 7: "string_val", 10: "bool_val"}


def to_array(message: Any) -> np.ndarray:
    """A TensorProto as an array.

    Raises:
        ServingError: a type that no signature here has, or values that do not fill the shape.
    """
    dtype = TYPES.get(message.dtype)
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    if dtype is None or any(size < 0 for size in shape):
        raise ServingError(INVALID_ARGUMENT, f"tensors of type {message.dtype} and shape {shape} are not taken")
    count = math.prod(shape)
    if message.tensor_content:
        values = np.frombuffer(message.tensor_content, dtype)
    else:
        given = list(getattr(message, _FIELDS[message.dtype]))
        given += given[-1:] * (count - len(given))  # the last value stands for all that follow
        values = np.empty(len(given), dtype)
        values[:] = given
    if len(values) != count:
        raise ServingError(INVALID_ARGUMENT, f"{len(values)} values do not fill a tensor of shape {shape}")
    return values.reshape(shape)


def to_message(array: np.ndarray) -> Any:
    """An array as a TensorProto, its values in fields, as the server's answers have them."""
    number = NUMBERS[array.dtype]
    shape = tensor_shape_pb2.TensorShapeProto(dim=[{"size": size} for size in array.shape])
    return tensor_pb2.TensorProto(dtype=number, tensor_shape=shape, **{_FIELDS[number]: array.ravel().tolist()})


def warm_up_requests(version: Path) -> Iterator[Any]:
    """The PredictRequests in a version's assets.extra, if there are any."""
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    contents, at = path.read_bytes() if path.exists() else b"", 0
    while at < len(contents):  # TFRecord: length, its checksum, the record, its checksum
        (length,) = struct.unpack_from("<Q", contents, at)
        yield prediction_log_pb2.PredictionLog.FromString(contents[at + 12 : at + 12 + length]).predict_log.request
        at += 12 + length + 4

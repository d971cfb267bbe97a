"""TensorFlow's C API through ctypes: a SavedModel runs in a process that never imports TensorFlow, as in a server.

As a program, `python -m tests.serving.tf_c_api FOLDER`, it reads requests as JSON and prints their answers.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# tensorflow/core/framework/types.proto; an array of strings is one of Python's bytes.
TYPES: dict[int, np.dtype] = {
    1: np.dtype(np.float32),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    7: np.dtype(object),
    10: np.dtype(np.bool_),
}
NUMBERS = {dtype: number for number, dtype in TYPES.items()}

_STRING = np.dtype(object)
_STRING_BYTES = 24  # sizeof(TF_TString)


class TensorFlowError(Exception):
    """What TensorFlow reports: `code` as in tensorflow/c/tf_status.h (and in gRPC), and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class TensorInfo(NamedTuple):
    """A tensor of a signature: its name in the graph, and what it must be. None is any length."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]


class Signature(NamedTuple):
    """A signature's tensors, by the names that clients use."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


class Session:
    """A loaded SavedModel. Threads may run it at the same time; `close` frees it.

    Raises:
        TensorFlowError: the folder holds no SavedModel that can be loaded.
    """

    def __init__(self, folder: str | Path) -> None:
        c = _library()
        self._graph, self._session = c.TF_NewGraph(), None
        self._operations: dict[str, int] = {}
        options, buffer = c.TF_NewSessionOptions(), c.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        try:
            with _Status() as status:
                self._session = c.TF_LoadSessionFromSavedModel(
                    options, None, str(folder).encode(), tags, 1, self._graph, buffer, status
                )
            self.signatures = _signatures(ctypes.string_at(buffer.contents.data, buffer.contents.length))
        finally:
            c.TF_DeleteSessionOptions(options)
            c.TF_DeleteBuffer(buffer)
            if self._session is None:
                c.TF_DeleteGraph(self._graph)

    def run(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs of a signature.

        Raises:
            TensorFlowError: of the graph, such as for inputs of a wrong type. KeyError: no such signature or input.
        """
        c, tensors = _library(), self.signatures[signature]
        given: list[int] = []
        results = (ctypes.c_void_p * len(tensors.outputs))()
        try:
            for name, info in tensors.inputs.items():
                given.append(_to_tensor(np.asarray(inputs[name], info.dtype)))
            with _Status() as status:
                c.TF_SessionRun(
                    self._session,
                    None,
                    self._places(tensors.inputs),
                    (ctypes.c_void_p * len(given))(*given),
                    len(given),
                    self._places(tensors.outputs),
                    results,
                    len(results),
                    None,
                    0,
                    None,
                    status,
                )
            return {name: _to_array(tensor) for name, tensor in zip(tensors.outputs, results, strict=True)}
        finally:
            for tensor in (*given, *results):
                if tensor:
                    c.TF_DeleteTensor(tensor)

    def close(self) -> None:
        """Frees the session; nothing may be running in it."""
        c = _library()
        if self._session is not None:
            with _Status() as status:
                c.TF_CloseSession(self._session, status)
            with _Status() as status:
                c.TF_DeleteSession(self._session, status)
            c.TF_DeleteGraph(self._graph)
            self._session = None

    def _places(self, tensors: Mapping[str, TensorInfo]) -> Any:
        """Where in the graph they are fed or fetched: `name` is OPERATION:INDEX."""
        places = (_Output * len(tensors))()
        for place, info in zip(places, tensors.values(), strict=True):
            operation, _, index = info.name.rpartition(":")
            if operation not in self._operations:
                self._operations[operation] = _library().TF_GraphOperationByName(self._graph, operation.encode())
            place.operation, place.index = self._operations[operation], int(index)
        return places


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


class _Status:
    """A TF_Status for one call; what it says at the end of the block is raised."""

    def __enter__(self) -> int:
        self.status = _library().TF_NewStatus()
        return self.status

    def __exit__(self, kind: Any, *rest: Any) -> None:
        c = _library()
        code, message = c.TF_GetCode(self.status), c.TF_Message(self.status).decode(errors="replace")
        c.TF_DeleteStatus(self.status)
        if code and kind is None:
            raise TensorFlowError(code, message)


_P, _S, _N, _I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
_FREE = ctypes.CFUNCTYPE(None, _P, _N, _P)
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "TF_Version": (_S, []),
    "TF_NewStatus": (_P, []),
    "TF_DeleteStatus": (None, [_P]),
    "TF_GetCode": (_I, [_P]),
    "TF_Message": (_S, [_P]),
    "TF_NewBuffer": (ctypes.POINTER(_Buffer), []),
    "TF_DeleteBuffer": (None, [ctypes.POINTER(_Buffer)]),
    "TF_NewGraph": (_P, []),
    "TF_DeleteGraph": (None, [_P]),
    "TF_GraphOperationByName": (_P, [_P, _S]),
    "TF_NewSessionOptions": (_P, []),
    "TF_DeleteSessionOptions": (None, [_P]),
    "TF_LoadSessionFromSavedModel": (_P, [_P, _P, _S, ctypes.POINTER(_S), _I, _P, ctypes.POINTER(_Buffer), _P]),
    "TF_SessionRun": (
        None,
        [_P, _P, ctypes.POINTER(_Output), _P, _I, ctypes.POINTER(_Output), _P, _I, _P, _I, _P, _P],
    ),
    "TF_CloseSession": (None, [_P, _P]),
    "TF_DeleteSession": (None, [_P, _P]),
    "TF_NewTensor": (_P, [_I, ctypes.POINTER(ctypes.c_int64), _I, _P, _N, _FREE, _P]),
    "TF_AllocateTensor": (_P, [_I, ctypes.POINTER(ctypes.c_int64), _I, _N]),
    "TF_DeleteTensor": (None, [_P]),
    "TF_TensorType": (_I, [_P]),
    "TF_NumDims": (_I, [_P]),
    "TF_Dim": (ctypes.c_int64, [_P, _I]),
    "TF_TensorData": (_P, [_P]),
    "TF_TensorByteSize": (_N, [_P]),
    "TF_StringInit": (None, [_P]),
    "TF_StringCopy": (None, [_P, _S, _N]),
    "TF_StringGetDataPointer": (_P, [_P]),
    "TF_StringGetSize": (_N, [_P]),
    "TF_StringDealloc": (None, [_P]),
}


def package_folder() -> Path:
    """Of the installed tensorflow package, which is not imported."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("tensorflow is not installed")
    return Path(spec.submodule_search_locations[0])


def version() -> str:
    """Of the library."""
    return _library().TF_Version().decode()


@functools.cache
def _library() -> ctypes.CDLL:
    """The package's shared library, with the types of the functions that are used."""
    folder = package_folder()
    # First the one that the other needs; global, so that both see one set of registered kernels.
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


# Tensors

_held: dict[int, Any] = {}  # memory of string tensors that TensorFlow still uses
_tickets = itertools.count(1)


@_FREE
def _free_strings(data: int, length: int, ticket: int) -> None:
    """Called by TensorFlow, from any of its threads, when it is done with a tensor of strings."""
    for offset in range(0, length, _STRING_BYTES):
        _library().TF_StringDealloc(data + offset)
    del _held[ticket]


def _to_tensor(array: np.ndarray) -> int:
    c, kind = _library(), NUMBERS[array.dtype]
    dims = (ctypes.c_int64 * array.ndim)(*array.shape)
    if array.dtype != _STRING:
        tensor = c.TF_AllocateTensor(kind, dims, array.ndim, array.nbytes)
        ctypes.memmove(c.TF_TensorData(tensor), np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return tensor
    length = array.size * _STRING_BYTES
    memory = ctypes.create_string_buffer(max(length, 1))
    ticket, start = next(_tickets), ctypes.addressof(memory)
    for offset, value in zip(range(0, length, _STRING_BYTES), array.flat, strict=True):
        c.TF_StringInit(start + offset)
        c.TF_StringCopy(start + offset, value, len(value))
    _held[ticket] = memory
    return c.TF_NewTensor(kind, dims, array.ndim, start, length, _free_strings, ticket)


def _to_array(tensor: int) -> np.ndarray:
    c = _library()
    dtype = TYPES[c.TF_TensorType(tensor)]
    shape = tuple(c.TF_Dim(tensor, axis) for axis in range(c.TF_NumDims(tensor)))
    array = np.empty(shape, dtype)
    start, length = c.TF_TensorData(tensor), c.TF_TensorByteSize(tensor)
    if dtype != _STRING:
        ctypes.memmove(array.ctypes.data, start, array.nbytes)
        return array
    for index, offset in enumerate(range(0, length if array.size else 0, _STRING_BYTES)):
        at = start + offset
        array.flat[index] = ctypes.string_at(c.TF_StringGetDataPointer(at), c.TF_StringGetSize(at))
    return array


# The few fields of a MetaGraphDef that are needed (tensorflow/core/protobuf/meta_graph.proto)


def _signatures(meta_graph: bytes) -> dict[str, Signature]:
    found = {}
    for name, value in _map_field(meta_graph, 5):  # signature_def
        if any(
            field == 1 for field, _ in _fields(value)
        ):  # __saved_model_init_op, which nobody asks for, has no inputs
            tensors = [{key: _tensor_info(info) for key, info in _map_field(value, field)} for field in (1, 2)]
            found[name] = Signature(*tensors)
    return found


def _tensor_info(message: bytes) -> TensorInfo:
    fields = dict(_fields(message))
    shape = []
    for number, dim in _fields(fields.get(3, b"")):
        if number == 2:
            size = dict(_fields(dim)).get(1, 0)
            shape.append(None if size >> 63 else size)  # -1 is any length
    return TensorInfo(fields[1].decode(), TYPES[fields[2]], tuple(shape))


def _map_field(message: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    for field, entry in _fields(message):
        if field == number:
            parts = dict(_fields(entry))
            yield parts[1].decode(), parts.get(2, b"")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """A message's fields in order: the number, and a whole number or bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field of unknown kind {kind}")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


# As a program


def main(folder: str) -> None:
    """Reads a list of {"signature", "inputs"}, strings as base64; prints TensorFlow's version and the answers."""
    session = Session(folder)
    answers = []
    for request in json.load(sys.stdin):
        tensors = session.signatures[request["signature"]]
        inputs = {}
        for name, values in request["inputs"].items():
            info = tensors.inputs[name]
            array = np.empty((len(values), *info.shape[1:]), info.dtype)
            array[:] = [base64.b64decode(value) for value in values] if info.dtype == _STRING else values
            inputs[name] = array
        outputs = session.run(request["signature"], inputs)
        strings = {name for name, value in outputs.items() if value.dtype == _STRING}
        answers.append(
            {
                name: [text.decode() for text in value] if name in strings else value.tolist()
                for name, value in outputs.items()
            }
        )
    signatures = {
        name: {
            part: {key: [str(info.dtype), list(info.shape)] for key, info in sorted(tensors.items())}
            for part, tensors in signature._asdict().items()
        }
        for name, signature in session.signatures.items()
    }
    session.close()
    held = len(_held)
    imported = sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "dvt_tf"})
    assert not imported, f"{imported} were imported"
    json.dump({"version": version(), "held": held, "signatures": signatures, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])

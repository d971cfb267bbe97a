"""Batches of requests that arrive together, formed as TensorFlow Serving forms them; for the tests' own server."""

from __future__ import annotations

import collections
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]

INVALID_ARGUMENT, NOT_FOUND, UNAVAILABLE = 3, 5, 14  # as in gRPC and in TensorFlow


class ServingError(Exception):
    """What a client did wrong, or what keeps the server from answering: `code` as in gRPC, and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Batching(NamedTuple):
    """The server's parameters of the same names. Without `allowed_batch_sizes` every size is allowed."""

    max_batch_size: int = 1
    batch_timeout_micros: int = 0
    allowed_batch_sizes: tuple[int, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Batching:
        """From a file for --batching_parameters_file; what it says of threads and queues is not used here."""
        text = re.sub(r"#.*", "", path.read_text())
        wrapped = {name: int(value) for name, value in re.findall(r"(\w+)\s*\{\s*value\s*:\s*(\d+)\s*\}", text)}
        allowed = tuple(int(value) for value in re.findall(r"allowed_batch_sizes\s*:\s*(\d+)", text))
        if allowed and (list(allowed) != sorted(allowed) or allowed[-1] != wrapped["max_batch_size"]):
            raise ValueError(f"{path}: allowed_batch_sizes must ascend and end with max_batch_size")
        return cls(wrapped["max_batch_size"], wrapped["batch_timeout_micros"], allowed)

    def padded(self, rows: int) -> int:
        """How many rows are run for so many."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


class Batcher:
    """Runs a function on the rows of several requests at once, each of which waits for its own.

    A batch takes whole requests in the order they came. It runs when the next one would not fit, when it is full, or
    when its oldest request has waited for the timeout. Where no allowed size fits, copies of the first row of its last
    request are added: they are computed as any other row, and thrown away.
    """

    def __init__(self, run: Callable[[Mapping[str, np.ndarray]], Arrays], batching: Batching) -> None:
        self._run = run
        self._batching = batching
        self._waiting: collections.deque[_Request] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self.batches: collections.Counter[tuple[int, int, int]] = collections.Counter()  # (requests, rows, rows run)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, inputs: Arrays) -> Arrays:
        """Waits for the outputs of these rows; every input has at least one, and as many as the others.

        Raises:
            ServingError: more rows than a batch may have. Or whatever its batch raised, for all that are in it.
        """
        request = _Request(inputs, len(next(iter(inputs.values()))))
        if request.rows > self._batching.max_batch_size:
            message = (
                f"Task size {request.rows} is larger than maximum input batch size {self._batching.max_batch_size}"
            )
            raise ServingError(INVALID_ARGUMENT, message)
        with self._changed:
            if self._closed:
                raise ServingError(UNAVAILABLE, "the version is being unloaded")
            self._waiting.append(request)
            self._changed.notify()
        request.done.wait()
        if request.error is not None:
            raise request.error
        return request.outputs

    def close(self) -> None:
        """Answers what is waiting, then ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is the answer)
                for request in batch:
                    request.error = error
            for request in batch:
                request.done.set()

    def _next(self) -> list[_Request]:
        """The next batch; an empty one is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            deadline = self._waiting[0].arrived + self._batching.batch_timeout_micros / 1e6
            self._changed.wait_for(lambda: self._closed or self._fitting()[1], max(0.0, deadline - time.monotonic()))
            return [self._waiting.popleft() for _ in range(self._fitting()[0])]

    def _fitting(self) -> tuple[int, bool]:
        """How many of those that wait fit into one batch, and whether that is full."""
        rows = 0
        for count, request in enumerate(self._waiting):
            if rows + request.rows > self._batching.max_batch_size:
                return count, True
            rows += request.rows
        return len(self._waiting), rows == self._batching.max_batch_size

    def _answer(self, batch: list[_Request]) -> None:
        rows = sum(request.rows for request in batch)
        padded = self._batching.padded(rows)
        self.batches[len(batch), rows, padded] += 1
        merged = {}
        for name, last in batch[-1].inputs.items():
            copies = np.repeat(last[:1], padded - rows, axis=0)
            merged[name] = np.concatenate([*(request.inputs[name] for request in batch), copies])
        outputs = self._run(merged)
        start = 0
        for request in batch:
            request.outputs = {name: value[start : start + request.rows] for name, value in outputs.items()}
            start += request.rows


class _Request:
    """One request on its way."""

    def __init__(self, inputs: Arrays, rows: int) -> None:
        self.inputs, self.rows = inputs, rows
        self.arrived = time.monotonic()
        self.outputs: Arrays = {}
        self.error: Exception | None = None
        self.done = threading.Event()

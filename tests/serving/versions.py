"""Versions of a model on a server: found in its folder, loaded, warmed up, swapped in and let go; for tests only."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.serving.batching import INVALID_ARGUMENT, NOT_FOUND, Arrays, Batcher, Batching, ServingError
from tests.serving.messages import to_array, warm_up_requests
from tests.serving.tf_c_api import Session, Signature, TensorFlowError


class ModelConfig(NamedTuple):
    """What is served of a model. No `versions`: the highest one alone."""

    name: str
    base_path: Path
    versions: tuple[int, ...] = ()
    labels: tuple[tuple[str, int], ...] = ()


class Version:
    """One loaded version: a session and a queue for each of its signatures."""

    def __init__(self, number: int, folder: Path, batching: Batching | None) -> None:
        self.number = number
        self._session = Session(folder)
        self._batching = batching
        for request in warm_up_requests(folder):
            self._run(
                request.model_spec.signature_name, {key: to_array(value) for key, value in request.inputs.items()}
            )
        self.batchers = {
            name: Batcher(lambda inputs, name=name: self._run(name, inputs), batching)
            for name in (self._session.signatures if batching else ())
        }
        self._users = 0
        self._idle = threading.Condition()

    def signature(self, name: str) -> Signature:
        """One of the signatures; "" for the default one."""
        name = name or "serving_default"
        if name not in self._session.signatures:
            raise ServingError(INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
        return self._session.signatures[name]

    def predict(self, name: str, inputs: Arrays) -> Arrays:
        """The answer of a signature.

        Raises:
            ServingError: inputs that are not those of the signature, or more rows than fit into a batch.
        """
        tensors, name = self.signature(name).inputs, name or "serving_default"
        if set(inputs) != set(tensors):
            raise ServingError(INVALID_ARGUMENT, f"inputs are {sorted(inputs)} and must be {sorted(tensors)}")
        for key, info in tensors.items():
            shape = inputs[key].shape
            fits = len(shape) == len(info.shape) and all(a in (None, b) for a, b in zip(info.shape, shape, strict=True))
            if inputs[key].dtype != info.dtype or not fits:
                want = [-1 if size is None else size for size in info.shape]
                raise ServingError(
                    INVALID_ARGUMENT, f"{key} is {inputs[key].dtype} {list(shape)}, not {info.dtype} {want}"
                )
        counts = {len(value) for value in inputs.values()}
        if len(counts) > 1 or 0 in counts:
            raise ServingError(INVALID_ARGUMENT, "inputs must have equal numbers of rows, and at least one")
        return self.batchers[name].submit(inputs) if self._batching else self._run(name, inputs)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Version]:
        """While it lasts, the version is not freed."""
        with self._idle:
            self._users += 1
        try:
            yield self
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """Frees it once nobody uses it any more."""
        with self._idle:
            self._idle.wait_for(lambda: self._users == 0)
        for batcher in self.batchers.values():
            batcher.close()
        self._session.close()

    def _run(self, name: str, inputs: Arrays | dict[str, np.ndarray]) -> Arrays:
        try:
            return self._session.run(name, inputs)
        except TensorFlowError as error:
            raise ServingError(error.code, str(error)) from error


class Model:
    """A model's versions; `update` brings them to what its folder and a configuration say."""

    def __init__(self, config: ModelConfig, batching: Batching | None) -> None:
        self.config = config
        self._batching = batching
        self._loaded: dict[int, Version] = {}
        self._leaving: set[int] = set()
        self._failed: dict[int, str] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, number: int | None = None, label: str = "") -> Iterator[Version]:
        """A version to ask: of that number or label, or the highest.

        Raises:
            ServingError: there is none.
        """
        with contextlib.ExitStack() as stack:
            with self._lock:  # so that a version is not let go between being found and being used
                if label:
                    number = dict(self.config.labels).get(label)
                    if number is None:
                        raise ServingError(INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
                wanted = max(self._loaded, default=None) if number is None else number
                if wanted not in self._loaded:
                    what = (
                        f"Latest({self.config.name})" if number is None else f"Specific({self.config.name}, {number})"
                    )
                    raise ServingError(NOT_FOUND, f"Servable not found for request: {what}")
                version = stack.enter_context(self._loaded[wanted].in_use())
            yield version

    def update(self, config: ModelConfig) -> None:
        """Loads what is new, swaps it in, moves the labels, and only then lets go of what is not wanted any more."""
        wanted = _wanted(config)
        for number in sorted(wanted - set(self._loaded) - set(self._failed)):
            try:
                version = Version(number, self.config.base_path / str(number), self._batching)
            except Exception as error:  # noqa: BLE001 (a version that cannot be loaded must not end the others)
                traceback.print_exc()
                self._failed[number] = str(error)
                continue
            with self._lock:
                self._loaded[number] = version
        with self._lock:
            self.config = config
        # Where what is wanted could not be loaded, what is there stays.
        if wanted & set(self._loaded):
            for number in sorted(set(self._loaded) - wanted):
                with self._lock:
                    version = self._loaded.pop(number)
                    self._leaving.add(number)
                version.close()
                self._leaving.discard(number)

    def status(self) -> list[tuple[int, str, str]]:
        """Number, state and error message of each version, the highest first."""
        with self._lock:
            states = [(number, "AVAILABLE", "") for number in self._loaded]
            states += [(number, "UNLOADING", "") for number in self._leaving]
            states += [(number, "END", text) for number, text in self._failed.items()]
        return sorted(states, reverse=True)

    def batches(self) -> list[tuple[int, str, int, int, int, int]]:
        """Of the loaded versions: version, signature, requests, rows and rows run of a batch, and how many such."""
        with self._lock:
            loaded = list(self._loaded.values())
        return [
            (version.number, name, *size, count)
            for version in loaded
            for name, batcher in version.batchers.items()
            for size, count in list(batcher.batches.items())
        ]

    def close(self) -> None:
        """Frees all versions."""
        with self._lock:
            loaded, self._loaded = self._loaded, {}
        for version in loaded.values():
            version.close()


def _wanted(config: ModelConfig) -> set[int]:
    """The versions to serve of those in the folder; what has no number for a name is none."""
    found = {int(path.name) for path in config.base_path.glob("*") if path.name.isdecimal() and path.is_dir()}
    if config.versions:
        return found & set(config.versions)
    return {max(found)} if found else set()

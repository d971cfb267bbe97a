"""Scenes that several runs see, drawn once and kept in files, as drawing them may take as long as training on them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track

from dvt_tf.files import written_whole
from dvt_tf.scenes import SCENE_SIZE
from training.locks import held

STEPS_A_FILE = 100
_PIXELS = SCENE_SIZE * SCENE_SIZE * 3
_SCENE = np.dtype([("which", "<i4"), ("box", "<f4", 4), ("pixels", "u1", _PIXELS)])  # one record, without gaps


class SceneBatch(NamedTuple):
    """What is drawn of a step: `which` object (B,) int32, its `box` (B, 4) float32, `pixels` (B, S, S, 3) uint8."""

    which: tf.Tensor
    box: tf.Tensor
    pixels: tf.Tensor


class KeptScenes:
    """The scenes of a run's steps in a folder, a file for every `STEPS_A_FILE` of them.

    Args:
        folder: of one stream of scenes alone; folders of others stand beside it. batch_size: scenes a step.
        steps: of the run.
    """

    def __init__(self, folder: Path, batch_size: int, steps: int) -> None:
        self.folder, self.batch_size, self.steps = folder, batch_size, steps
        self._in_use = ExitStack()  # holds the scenes, so that nobody removes them

    def keep(self, batches_of: Callable[[Sequence[int]], Iterator[SceneBatch]]) -> bool:
        """Draws what is not there yet and keeps all of it as long as this object lives -> whether there is room.

        Two processes draw at once, one from each end; others wait for them. The first one removes the folders beside
        this one whose scenes no process reads.

        Args:
            batches_of: steps -> the scenes of each, as arrays.

        Raises:
            OSError: a file cannot be written.
        """
        beside = self.folder.parent
        beside.mkdir(parents=True, exist_ok=True)
        with ExitStack() as in_use:
            in_use.enter_context(held(_in_use_lock(self.folder), wait=True, shared=True))
            self.folder.mkdir(exist_ok=True)
            with _turn(beside) as backwards:
                if not backwards:
                    _remove_others(self.folder)
                needed, free = self.missing_bytes(), shutil.disk_usage(beside).free
                if needed > free / 2:
                    room = f"{needed / 1e9:.1f} GB in {beside}, more than half of what is free ({free / 1e9:.1f} GB)"
                    print(f"scenes are drawn as they are needed, not ahead: that takes {room}", flush=True)
                    return False
                if needed:
                    print(f"drawing scenes ahead, {needed / 1e9:.1f} GB in {beside}", flush=True)
                self.draw(batches_of, backwards)
            self._in_use = in_use.pop_all()
        return True

    def missing_bytes(self) -> int:
        """Of the files that are not there yet."""
        return sum(map(self._bytes, self._missing()))

    def draw(self, batches_of: Callable[[Sequence[int]], Iterator[SceneBatch]], backwards: bool = False) -> None:
        """Draws into the folder what is not there yet; one that is interrupted goes on from the last whole file.

        Args:
            batches_of: steps -> the scenes of each, as arrays.
            backwards: from the last file to the first, as a second process does that draws meanwhile, till they meet.

        Raises:
            OSError: a file cannot be written.
        """
        while missing := self._missing():
            self._draw_files(missing[::-1] if backwards else missing, batches_of)

    def _draw_files(self, numbers: Sequence[int], batches_of: Callable[[Sequence[int]], Iterator[SceneBatch]]) -> None:
        """Up to one that is there by now."""
        batches = batches_of([step for number in numbers for step in self._steps(number)])
        console = Console()  # no terminal where several cells are trained: their bars would fight over it
        for number in track(
            numbers, "drawing scenes", console=console, transient=True, disable=not console.is_terminal
        ):
            if self._whole(number):
                break
            scenes = np.empty((len(self._steps(number)), self.batch_size), _SCENE)
            for place in range(len(scenes)):
                batch = next(batches)
                scenes["which"][place], scenes["box"][place] = batch.which, batch.box
                scenes["pixels"][place] = np.reshape(batch.pixels, (self.batch_size, _PIXELS))
            with held(self.folder / ".lock", wait=True):  # where two meet, both may have drawn the same file
                if not self._whole(number):
                    with written_whole(self._file(number)) as temporary:
                        scenes.tofile(temporary)

    def read(self, first_step: int) -> tf.data.Dataset:
        """A `SceneBatch` for each step from `first_step` on."""
        files = [str(self._file(number)) for number in range(first_step // STEPS_A_FILE, self._files())]
        records = tf.data.FixedLengthRecordDataset(files, _SCENE.itemsize)
        records = records.skip(first_step % STEPS_A_FILE * self.batch_size)
        return records.batch(self.batch_size, drop_remainder=True).map(self._decode, num_parallel_calls=1)

    def _decode(self, records: tf.Tensor) -> SceneBatch:
        def field(name: str, kind: tf.DType) -> tf.Tensor:
            dtype, start = _SCENE.fields[name][:2]  # type: ignore[index]
            return tf.io.decode_raw(tf.strings.substr(records, start, dtype.itemsize), kind)

        pixels = tf.reshape(field("pixels", tf.uint8), (self.batch_size, SCENE_SIZE, SCENE_SIZE, 3))
        which = tf.reshape(field("which", tf.int32), (self.batch_size,))
        return SceneBatch(which, tf.reshape(field("box", tf.float32), (self.batch_size, 4)), pixels)

    def _files(self) -> int:
        return math.ceil(self.steps / STEPS_A_FILE)

    def _steps(self, number: int) -> range:
        return range(number * STEPS_A_FILE, min((number + 1) * STEPS_A_FILE, self.steps))

    def _bytes(self, number: int) -> int:
        return len(self._steps(number)) * self.batch_size * _SCENE.itemsize

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05}.scenes"

    def _whole(self, number: int) -> bool:
        path = self._file(number)
        return path.is_file() and path.stat().st_size == self._bytes(number)

    def _missing(self) -> list[int]:
        return [number for number in range(self._files()) if not self._whole(number)]


@contextmanager
def _turn(folder: Path) -> Iterator[bool]:
    """Within it this process may draw into a folder -> whether from its end, as another draws from its beginning."""
    beginning, end = folder / ".lock", folder / ".lock_backwards"
    with ExitStack() as stack:
        for lock, wait in ((beginning, False), (end, False), (beginning, True)):
            with suppress(BlockingIOError):
                stack.enter_context(held(lock, wait))
                break
        yield lock == end


def _in_use_lock(scenes: Path) -> Path:
    """What is held as long as a process reads the scenes of this folder; beside it, so that it outlives the folder."""
    return scenes.with_name(f".{scenes.name}.in_use")


def _remove_others(scenes: Path) -> None:
    """The scenes beside these that no process reads."""
    for other in scenes.parent.iterdir():
        if other.is_dir() and other != scenes:
            with suppress(BlockingIOError), held(_in_use_lock(other), wait=False):
                shutil.rmtree(other)

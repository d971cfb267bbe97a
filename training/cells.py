"""The cells of a study, one configuration trained with one seed, and what is kept of them.

What is kept is small, so that the results of many runs can be handed on: of every image of the calibration and test
splits how sure each exit was and whether it was right.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from dvt_tf.files import written_whole
from dvt_tf.presets import CascadeConfig

SPLITS = ("calibration", "test")
FORMAT = "dvt_tf study cell 2"
RESULTS_FILE = "results.csv"
KEPT, HISTORIES, RUNS = "cells", "history", "runs"  # folders of a study
NOT_NOTED = "not noted"
_STEPS = 65535  # in which confidences are kept


class Cell(NamedTuple):
    """One configuration and one seed."""

    configuration: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.configuration}_seed{self.seed}"


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What is kept of a cell.

    gmacs: (K,) float64, cumulative. confidences, correct: by split, (N, K) float32 to the 65,535th part, and bool.
    images: that it was trained on. seconds: of its epochs, by its history. made_by: `described`, how it was trained,
    which `refuse_others` compares; and, which it does not, of the process that ended it `versions` of packages, `git`
    state of the code, what the `processor` has for matmuls and on how many `replicas` it was, `earlier` the same of
    those before it, as far as noted, and, where it started from a model, the digest of its weights,
    `started_from_weights`.
    labels: by split, the `digest_of` the images' labels; empty for one that was kept before there was this field.
    """

    gmacs: np.ndarray
    confidences: Mapping[str, np.ndarray]
    correct: Mapping[str, np.ndarray]
    images: int
    seconds: float
    made_by: Mapping[str, Any]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def top1(self) -> np.ndarray:
        """(K,) share of right answers on the test split."""
        return self.correct["test"].mean(0)

    def commits(self) -> str:
        """The code of the processes that trained it, in order; a + where it had been changed since."""
        states = [start.get("git", {}) for start in self._starts()]
        return _each([state.get("commit", "")[:7] + ("+" if state.get("changed") else "") for state in states])

    def processors(self) -> str:
        """What their processors had for matmuls, in order; "" where it is noted of none."""
        return _each([start.get("processor", "") for start in self._starts()])

    def replicas(self) -> str:
        """Into how many parts each process split a batch, in order; "" where it is noted of none."""
        return _each([str(start.get("replicas", "")) for start in self._starts()])

    def _starts(self) -> list[Mapping[str, Any]]:
        return [*self.made_by.get("earlier", ()), self.made_by]


Found = Mapping[Cell, Outcome]


def save_outcome(outcome: Outcome, path: Path) -> None:
    """Writes one, whole or not at all."""
    tensors = {"gmacs": outcome.gmacs}
    for split in SPLITS:
        # Down, so that a confidence of 1 stays the only one of 1.
        tensors[f"{split}_confidences"] = np.floor(outcome.confidences[split] * _STEPS).astype(np.uint16)
        tensors[f"{split}_correct"] = np.packbits(outcome.correct[split], axis=0)
    about = {
        "format": FORMAT,
        "counts": json.dumps({split: len(outcome.correct[split]) for split in SPLITS}),
        "images": str(outcome.images),
        "seconds": f"{outcome.seconds:.0f}",
        "made_by": json.dumps(outcome.made_by, sort_keys=True),
        "labels": json.dumps(outcome.labels),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary, about)


def load_outcome(path: Path) -> Outcome:
    """Reads one.

    Raises:
        ValueError: it is none, or damaged.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if about.get("format") != FORMAT:
            raise ValueError(f"its format is {about.get('format')!r}")
        counts = json.loads(about["counts"])
        return Outcome(
            tensors["gmacs"],
            {split: (tensors[f"{split}_confidences"] / np.float32(_STEPS)).astype(np.float32) for split in SPLITS},
            {
                split: np.unpackbits(tensors[f"{split}_correct"], axis=0, count=counts[split]).astype(bool)
                for split in SPLITS
            },
            int(about["images"]),
            float(about["seconds"]),
            json.loads(about["made_by"]),
            json.loads(about.get("labels", "{}")),
        )
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no result of a study's cell ({error}); remove it to train the cell anew"
        ) from error


def digest_of(labels: np.ndarray) -> str:
    """What tells the images of a split from others, by their labels (N,) in order: the beginning of a SHA-256."""
    return hashlib.sha256(np.ascontiguousarray(labels, "<i4").tobytes()).hexdigest()[:16]


def outcomes(out: Path, cells: Sequence[Cell]) -> dict[Cell, Outcome]:
    """What is kept of these cells, of those that are done; raises as `load_outcome`."""
    paths = {cell: out / KEPT / f"{cell.name}.safetensors" for cell in cells}
    return {cell: load_outcome(path) for cell, path in paths.items() if path.is_file()}


def seeds_of(found: Collection[Cell], *names: str) -> list[int]:
    """The seeds with which all these configurations are done."""
    each = [{cell.seed for cell in found if cell.configuration == name} for name in names]
    return sorted(set.intersection(*each))


def write_results(out: Path, found: Mapping[Cell, Outcome]) -> None:
    """All that is done as one table, results.csv; written whole or not at all."""
    most = max((len(outcome.gmacs) for outcome in found.values()), default=0)
    with written_whole(out / RESULTS_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        exits = range(1, most + 1)
        writer.writerow(
            [
                "configuration",
                "seed",
                "images",
                "seconds",
                "commit",
                "processor",
                "replicas",
                *(f"gmacs_{k}" for k in exits),
                *(f"top1_{k}" for k in exits),
            ]
        )
        for cell, outcome in found.items():
            blank = [""] * (most - len(outcome.gmacs))
            gmacs, top1 = ([f"{value:.6g}" for value in values] + blank for values in (outcome.gmacs, outcome.top1()))
            made_by = [outcome.commits(), outcome.processors(), outcome.replicas()]
            line = [cell.configuration, cell.seed, outcome.images, f"{outcome.seconds:.0f}", *made_by]
            writer.writerow([*line, *gmacs, *top1])


def _each(words: Sequence[str]) -> str:
    """Each once, in order; "" if there is none."""
    if not any(words):
        return ""
    return "; ".join(dict.fromkeys(word or NOT_NOTED for word in words))


def refuse_others(
    out: Path, found: Mapping[Cell, Outcome], described: Mapping[Cell, Mapping[str, Any]], *, report: bool = False
) -> None:
    """Refuses a folder with a cell that was trained otherwise, or scored on other images, than the study says.

    Args:
        found: what the folder has. described: of each of these cells, how it is trained now.
        report: nothing is trained beside them: a field that a cell's configuration has not, as it came later, is taken
            to have had its default. What else the code did otherwise before there was the field is not known.

    Raises:
        ValueError: there is one; the message names it, and what differs.
    """
    for cell, outcome in found.items():
        now = json.loads(json.dumps(described[cell]))  # as it will be read
        before = dict(outcome.made_by["described"])
        if report:
            before["config"] = {**CascadeConfig().to_dict(), **before["config"]}
        differs = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if differs:
            raise ValueError(
                f"{out} holds a study with other {', '.join(differs)} (of {cell.name}: "
                f"{'; '.join(f'{key}: {before.get(key)!r} there, {now.get(key)!r} now' for key in differs)}); "
                "give another --out"
            )
    counts = {cell: [len(outcome.correct[split]) for split in SPLITS] for cell, outcome in found.items()}
    for cell, count in counts.items():
        first = next(iter(counts))
        if count != counts[first]:
            raise ValueError(
                f"{out}: {cell.name} was scored on {' and '.join(map(str, count))} images ({', '.join(SPLITS)}), and "
                f"{first.name} on {' and '.join(map(str, counts[first]))}; remove those of one of them to train it anew"
            )
    for split in SPLITS:
        known = {cell: outcome.labels[split] for cell, outcome in found.items() if split in outcome.labels}
        for cell, labels in known.items():
            first = next(iter(known))
            if labels != known[first]:
                raise ValueError(
                    f"{out}: {cell.name} was scored on other {split} images than {first.name}, by their labels; remove "
                    "those of one of them to train it anew"
                )


def keep_history(run: Path, out: Path, cell: Cell) -> None:
    """Copies a run's history.csv to the study's histories."""
    target = out / HISTORIES / f"{cell.name}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as temporary:
        shutil.copyfile(run / "history.csv", temporary)


def seconds_of(history: Sequence[Mapping[str, str]]) -> float:
    """Of the rows of a history.csv: how long its epochs took, of however many processes."""
    images = np.diff([0.0, *(float(row["images"]) for row in history)])
    return float(sum(images / np.array([float(row["images_per_second"]) for row in history])))

"""Made-up results of the cells of a study."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np

from training import cells
from training.cells import Cell, Outcome
from training.studies import CONFIGURATIONS

IMAGES = 400
MADE_BY = {
    "described": {"images": 640, "config": {"dim": 8}, "data": "digits"},
    "versions": {"tensorflow": "2.15.1"},
    "git": {"commit": "0123456789abcdef", "changed": True},
}


def outcome(shares: tuple[float, ...], seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    confidences, correct = {}, {}
    for split in cells.SPLITS:
        hardness = random.random((IMAGES, 1))
        correct[split] = hardness < np.array(shares)
        confidences[split] = np.clip(1.1 - hardness - 0.05 * random.random((IMAGES, len(shares))), 0.1, 1.0).astype(
            np.float32
        )
    return Outcome(np.array([0.02, 0.05, 0.11])[: len(shares)], confidences, correct, 640, 12.0, MADE_BY)


def all_found(seeds: int = 3) -> dict[Cell, Outcome]:
    found = {}
    for seed in range(seeds):
        for number, (name, one) in enumerate(CONFIGURATIONS.items()):
            exits = one.exits or 1
            shares = tuple(0.5 + 0.01 * number + 0.1 * k for k in range(exits))
            found[Cell(name, seed)] = outcome(shares, seed)
    return found


def keep_histories(out: Path, found: Collection[Cell]) -> None:
    """Of exits 1 to K, an epoch of 320 images and another; the last exit is right on 20 % and 40 %, others on less."""
    (out / cells.HISTORIES).mkdir(parents=True)
    for cell in found:
        exits = CONFIGURATIONS[cell.configuration].exits or 1
        columns = [f"exit_{k + 1}_top1" for k in range(exits)]
        shares = [0.2 - 0.01 * (exits - 1 - k) for k in range(exits)]
        lines = [["epoch", "images", "loss", *columns, "val_exit_1_top1"]]
        lines += [[str(e), str(320 * e), "2.3", *(f"{e * share:.3f}" for share in shares), ""] for e in (1, 2)]
        text = "".join(",".join(line) + "\n" for line in lines)
        (out / cells.HISTORIES / f"{cell.name}.csv").write_text(text, encoding="utf-8")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))

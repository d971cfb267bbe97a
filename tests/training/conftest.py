"""A small study, with its cells trained in this process or made up at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.training.folders import make_folder
from training import ablate, cells
from training.cell_training import described
from training.cells import SPLITS, Cell, Outcome
from training.recipe import load_recipe

RECIPE = """
preset = "dvt_tiny_digits"
epochs = 1
batch_size = 4
learning_rate = 1e-3
test_images = 6
validation_images = 4
[overrides]
image_size = 28
token_grids = [2, 3, 4]
dim = 8
depth = 2
num_heads = 2
feature_reuse_hidden = 4
feature_reuse_dim = 4
"""


@pytest.fixture
def study(tmp_path: Path) -> list[str]:
    """The command of a small study, without what to compare."""
    (tmp_path / "small.toml").write_text(RECIPE)
    data = make_folder(tmp_path / "pictures")
    out = tmp_path / "study"
    return ["--recipe", str(tmp_path / "small.toml"), "--data", f"folder:{data}", "--out", str(out)]


class Ended:
    """A cell's process that has ended."""

    def __init__(self, cell: Cell, status: int) -> None:
        self.cell, self.status = cell, status

    def why(self) -> str:
        return f"status {self.status}" if self.status else ""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has cells trained in this process, and says which."""
    trained = []

    def train(cell: Cell, arguments: Sequence[str], _cores: object, _lock: int) -> Ended:
        trained.append(cell.name)
        return Ended(cell, ablate.main(arguments))

    monkeypatch.setattr(ablate, "CellProcess", train)
    return trained


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Has cells be done at once, with made-up results, or fail with the first status that is put in here."""
    statuses: list[int] = []

    def train(cell: Cell, arguments: Sequence[str], _cores: object, _lock: int) -> Ended:
        if statuses and (status := statuses.pop(0)):
            return Ended(cell, status)
        options = ablate.parse_arguments(arguments)
        told = described(load_recipe(options.recipe, changes=options.set), cell, options.data, "")
        right = {split: np.arange(12).reshape(6, 2) % 5 < 3 for split in SPLITS}
        sure = {split: np.full((6, 2), 0.5, np.float32) for split in SPLITS}
        made_by = {"described": told, "versions": {}, "git": {}}
        outcome = Outcome(np.array([0.1, 0.2]), sure, right, 20, 3.0, made_by)
        cells.save_outcome(outcome, options.out / "cells" / f"{cell.name}.safetensors")
        return Ended(cell, 0)

    monkeypatch.setattr(ablate, "CellProcess", train)
    return statuses

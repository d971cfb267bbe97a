"""Scenes that the cells of a seed share: drawn where several will, removed with the last."""

from __future__ import annotations

from pathlib import Path

import pytest

from training import ablate

pytestmark = pytest.mark.one_stack


def test_scenes_drawn_ahead_go_with_the_last_cell_of_their_seed(
    study: list[str], quick: list[int], tmp_path: Path
) -> None:
    scenes = tmp_path / "study" / "scenes"
    for seed in (0, 1):
        (scenes / f"seed{seed}").mkdir(parents=True)
    arguments = ["--study", "feature-location", *study, "--only", "two_none", "--only", "two_features_all"]
    quick.extend([0, 2])  # the second row of seed 0 fails
    assert ablate.main([*arguments, "--seeds", "1"]) == 2
    assert sorted(path.name for path in scenes.iterdir()) == ["seed0", "seed1"]
    assert ablate.main([*arguments, "--seeds", "1"]) == 0
    assert sorted(path.name for path in scenes.iterdir()) == ["seed1"]


def test_scenes_that_a_killed_command_left_go_with_the_next_one_and_kept_models_stay(
    study: list[str], quick: list[int], tmp_path: Path
) -> None:
    arguments = ["--study", "feature-location", "--seeds", "2", *study, "--only", "two_none"]
    quick.extend([0, 2])  # seed 1 fails
    assert ablate.main(arguments) == 2
    out = tmp_path / "study"
    for left in ("runs/two_none_seed0", "runs/two_none_seed1", "scenes/seed0", "scenes/seed1"):
        (out / left).mkdir(parents=True)
    quick.append(2)
    assert ablate.main(arguments) == 2
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["two_none_seed0", "two_none_seed1"]
    assert [path.name for path in (out / "scenes").iterdir()] == ["seed1"]


def test_scenes_are_not_drawn_ahead_for_a_single_cell(tmp_path: Path) -> None:
    cells = ablate.cells_of(["two_none", "two_features_all"], 2)
    assert ablate._shares_scenes(tmp_path, cells[0], cells, [])
    assert not ablate._shares_scenes(tmp_path, cells[1], cells, cells[:1])
    assert ablate._shares_scenes(tmp_path, cells[2], cells, cells[:2])
    (tmp_path / "scenes" / "seed0").mkdir(parents=True)
    assert ablate._shares_scenes(tmp_path, cells[1], cells, cells[:1])

"""Image folders: which files are of which split, and that they stay there for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvt_tf import folders

pytestmark = pytest.mark.one_stack

PINNED_SPLITS = ["calibration", "test", "test", "test", "calibration", "val", "test", "calibration"]


def make_files(root: Path, split: str, count: int) -> None:
    """`count` files of each of three classes that have an image's name, and one that has not."""
    for name in ("blue", "green", "red"):
        folder = root / split / name
        folder.mkdir(parents=True)
        for file in (*(f"{number:03}.png" for number in range(count)), "notes.txt"):
            (folder / file).touch()


def test_calibration_and_test_come_out_of_val_for_good(tmp_path: Path) -> None:
    make_files(tmp_path, "val", 60)
    files = {split: folders.folder_files(tmp_path, split)[0] for split in ("val", "calibration", "test")}
    every = [path for paths in files.values() for path in paths]
    assert len(every) == len(set(every)) == 180
    shares = {split: len(paths) / 180 for split, paths in files.items()}
    assert shares["calibration"] == pytest.approx(0.4, abs=0.1)
    assert shares["test"] == pytest.approx(0.4, abs=0.1)
    for split, paths in files.items():
        assert all(folders.hashed_split(f"{path.parent.name}/{path.name}") == split for path in paths)
    # Pinned: another hash would move images between splits that were chosen on and scored on.
    names = [f"n01440764/ILSVRC2012_val_{number:08}.JPEG" for number in range(8)]
    assert [folders.hashed_split(name) for name in names] == PINNED_SPLITS


def test_a_folder_of_its_own_is_a_split(tmp_path: Path) -> None:
    make_files(tmp_path, "val", 20)
    make_files(tmp_path, "test", 2)
    assert len(folders.folder_files(tmp_path, "test")[0]) == 6
    calibration, val = (folders.folder_files(tmp_path, split)[0] for split in ("calibration", "val"))
    assert not set(calibration) & set(val)
    assert len(calibration) + len(val) == 60
    assert len(val) > len(calibration)  # the share of test stays in val

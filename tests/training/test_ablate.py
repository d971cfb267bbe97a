"""The command that trains a study: cells in order, once each, stopped and gone on with, each as its seed says."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import weights_digest
from dvt_tf.processor import vector_extensions
from tests.training.outcomes import rows_of
from training import ablate, cells
from training.cell_training import recipe_of
from training.cells import SPLITS, Cell, Outcome, load_outcome
from training.locks import held
from training.recipe import load_recipe
from training.run import train
from training.stopping import Stopped
from training.studies import configurations_of

pytestmark = pytest.mark.one_stack


@pytest.mark.long
def test_a_study_from_nothing_to_its_report(
    study: list[str], here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--study", "feature-location", "--seeds", "1", *study, "--only", "two_none"]
    assert ablate.main(arguments) == 0
    assert here == ["two_none_seed0"]
    assert "1 of 4 cells are done" in capsys.readouterr().out
    out = tmp_path / "study"
    rows = rows_of(out / "results.csv")
    assert [(row["configuration"], row["seed"], row["images"]) for row in rows] == [("two_none", "0", "20")]
    assert [path.stem for path in (out / "history").iterdir()] == ["two_none_seed0"]
    assert not list((out / "runs").iterdir())
    assert (out / "feature-location.png").is_file()

    here.clear()
    assert ablate.main(arguments) == 0
    assert not here  # what is done is not trained again
    kept = out / "cells" / "two_none_seed0.safetensors"
    before = load_outcome(kept)
    kept.unlink()
    own = recipe_of(load_recipe(study[1]), Cell("two_none", 0))
    with pytest.raises(Stopped):
        train(own, study[3], out / "runs" / "two_none_seed0", stop_after=2)
    assert ablate.main([*arguments, "--keep-runs"]) == 0
    assert here == ["two_none_seed0"]
    assert (out / "runs" / here[0] / "model").is_dir()
    again = load_outcome(kept)  # the same seed, the same run, though in two processes
    for split in before.correct:
        np.testing.assert_allclose(again.confidences[split], before.confidences[split], atol=1e-3)
    assert again.labels == before.labels
    assert set(again.labels) == set(SPLITS)
    assert again.made_by["processor"] == (" ".join(vector_extensions()) or "none of those known")
    (earlier,) = again.made_by["earlier"]
    alike = ("git", "processor", "replicas")
    assert earlier == {"from_step": 0, "versions": ANY, **{key: again.made_by[key] for key in alike}}
    assert again.made_by["replicas"] == 1
    assert not before.made_by["earlier"]

    origin = out / "runs" / "{configuration}_seed{seed}" / "model"
    assert ablate.main([*arguments, "--start-from", str(origin), "--out", str(tmp_path / "other")]) == 0
    started = load_outcome(tmp_path / "other" / "cells" / kept.name).made_by["started_from_weights"]
    assert started == weights_digest(DynamicVisionTransformer.from_preset(out / "runs" / here[0] / "model"))


def test_images_that_change_while_cells_are_trained_make_no_pairs(
    study: list[str], quick: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, given = cells.save_outcome, ["0123456789abcdef", "fedcba9876543210"]

    def save_with_labels(outcome: Outcome, path: Path) -> None:
        save(dataclasses.replace(outcome, labels={"test": given.pop()}), path)

    monkeypatch.setattr(cells, "save_outcome", save_with_labels)
    assert ablate.main(["--study", "feature-location", "--seeds", "2", *study, "--only", "two_none"]) == 2
    assert "two_none_seed1 was scored on other test images than two_none_seed0" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_ends_no_training(
    study: list[str],
    quick: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write, errors = ablate.write_results, [OSError("No space left on device")]

    def full_at_first(out: Path, found: dict[Cell, Outcome]) -> None:
        if errors:
            raise errors.pop()
        write(out, found)

    monkeypatch.setattr(ablate, "write_results", full_at_first)
    assert ablate.main(["--study", "feature-location", "--seeds", "2", *study, "--only", "two_none"]) == 0
    assert "results.csv could not be written (No space left on device)" in capsys.readouterr().err
    assert [row["seed"] for row in rows_of(tmp_path / "study" / "results.csv")] == ["0", "1"]


def test_all_rows_of_a_seed_come_before_the_next_seed() -> None:
    assert ablate.cells_of(["a", "b"], 2) == [Cell("a", 0), Cell("b", 0), Cell("a", 1), Cell("b", 1)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--at-once", "0"], "--at-once is 0"),
        (["--at-once", "100000"], "and a cell needs one of its own"),
        (["--cpu-replicas", "0"], "--cpu-replicas is 0; it must be from 1 to "),
        (["--cpu-replicas", "2", "--set", "batch_size=5"], "batch_size 5 does not divide among 2 replicas; 4 would"),
        (["--at-once", "2", "--cpu-replicas", "100000"], "--cpu-replicas 100000 with --at-once 2: a cell has "),
        (["--cpu-replicas", "100000"], "--cpu-replicas is 100000; it must be from 1 to "),
        (["--only", "three_none"], "no row of the study; its rows are two_none"),
        (["--preset", "deit_small", "--set", "overrides.token_grids=[2]"], "needs a cascade of 2 exits"),
        (["--report"], "no cell of the study is done yet"),
        (["--estimate", "--rate", "0"], "--rate is 0"),
        (["--preset", "nothing"], "unknown preset 'nothing'"),
        (
            ["--start-from", "runs/{configuraton}"],
            "--start-from 'runs/{configuraton}': only {configuration} and {seed}",
        ),
    ],
)
def test_bad_input_is_one_line(
    study: list[str], changes: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate.main(["--study", "feature-location", *study, *changes]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_another_recipe_needs_another_folder(
    study: list[str], quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--study", "relationship-source", "--seeds", "1", *study, "--only", "two_none"]
    assert ablate.main(["--report", *arguments, "--set", "learning_rate=0.5"]) == 2  # leaves nothing behind
    assert ablate.main(arguments) == 0
    for change, says in (
        ("learning_rate=0.5", "learning_rate: 0.001 there, 0.5 now"),
        ("overrides.dim=16", "config: "),
    ):
        assert ablate.main([*arguments, "--set", change]) == 2
        assert says in capsys.readouterr().err


def test_a_row_that_fails_is_left_for_the_next_time(
    study: list[str], quick: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick += [2, 0]
    arguments = ["--study", "feature-location", "--seeds", "2", *study, "--only", "two_none"]
    assert ablate.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "training.ablate: two_none_seed0 could not be trained (status 2)"
    assert error[-1].startswith("training.ablate: not trained: two_none_seed0 (status 2)")
    assert [row["seed"] for row in rows_of(tmp_path / "study" / "results.csv")] == ["1"]
    assert (tmp_path / "study" / "report.md").is_file()
    assert ablate.main(arguments) == 0
    assert "cell 1 of 2: two_none, seed 0" in capsys.readouterr().out
    assert [row["seed"] for row in rows_of(tmp_path / "study" / "results.csv")] == ["0", "1"]


def test_three_failures_in_a_row_end_a_study(
    study: list[str], quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    quick += [2] * 8
    assert ablate.main(["--study", "feature-location", "--seeds", "2", *study]) == 2
    error = capsys.readouterr().err
    assert error.count("could not be trained") == 3
    assert "two_features_all_seed0 (and those after it: not tried after 3 failures in a row)" in error


def test_cells_at_once_have_cores_of_their_own(
    study: list[str], quick: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate, "shares_of_cores", lambda count: [[core] for core in range(count)])
    quick += [2, 2]
    started, given = ablate.CellProcess, []

    def start(cell: Cell, arguments: Sequence[str], cores: object, lock: int) -> object:
        given.append(cores)
        return started(cell, arguments, cores, lock)

    monkeypatch.setattr(ablate, "CellProcess", start)
    rows = ["--only", "two_none", "--only", "two_features_all"]
    assert ablate.main(["--study", "feature-location", "--seeds", "1", *study, *rows, "--at-once", "2"]) == 2
    assert given == [[0], [1]]


def test_a_cell_without_a_split_to_score_it_on_is_not_trained(
    study: list[str], here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures" / "calibration").mkdir()  # training itself has all it needs
    assert ablate.main(["--study", "curves", "--seeds", "1", *study, "--only", "alone_1"]) == 2
    assert f"{tmp_path / 'pictures' / 'calibration'}" in capsys.readouterr().err.splitlines()[0]
    assert here == ["alone_1_seed0"]
    assert not (tmp_path / "study" / "runs").exists()


def test_one_process_trains_a_study(study: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    out.mkdir()
    with held(out / ablate.LOCK, wait=False):
        assert ablate.main(["--study", "curves", "--seeds", "1", *study]) == 2
        assert f"{out}: a study is being trained there by another process" in capsys.readouterr().err
    with held(out / ablate.LOCK, wait=False):
        assert not (out / "runs").exists()


def test_an_estimate_is_of_six_operations_a_multiply_add(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--study", "curves", "--seeds", "2", "--out", "x", "--estimate", "--rate", "0.01"]
    assert ablate.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    images = load_recipe("study").images
    assert f"{images:,} images a cell" in lines[0]
    name, gmacs, _, hours, *_ = lines[1].split()
    assert name == "three_none"
    assert float(hours) == pytest.approx(6 * float(gmacs) * 1e9 * images / 1e10 / 3600, abs=0.06)
    assert lines[-1].strip().startswith("10 cells")
    assert not Path("x").exists()


def test_several_studies_are_one_set_of_cells(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--study", "relationship-location", "--study", "feature-location", "--seeds", "1"]
    assert ablate.main([*arguments, "--out", "x", "--estimate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line.split()[0] for line in lines[1:-1]]
    assert told == configurations_of(["feature-location", "relationship-location"])
    assert len(told) == 7  # both begin with no reuse
    assert lines[-1].strip().startswith("7 cells")


@pytest.mark.long
def test_two_cells_at_once_are_stopped_by_a_signal_and_go_on(study: list[str], tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    names = ["two_none_seed0", "two_features_all_seed0"]
    command = [sys.executable, "-m", "training.ablate", "--study", "feature-location", "--seeds", "1", *study]
    command += ["--only", "two_none", "--only", "two_features_all", "--set", "epochs=2000", "--at-once", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    histories = [tmp_path / "study" / "runs" / name / "history.csv" for name in names]
    deadline = time.monotonic() + 240
    while not all(path.is_file() for path in histories) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"stopped while {names[0]} and {names[1]} were trained; the same command goes on" in printed
    for name, history in zip(names, histories):
        assert f"\n{name}: epoch 1/2000, " in printed
        assert (history.parent / "state.safetensors").is_file()
    assert not (tmp_path / "study" / "cells").exists()

"""The benchmarks as commands: their tables come out, whatever the times are."""

from __future__ import annotations

import csv
import importlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import typer

from benchmarks import __main__ as every
from benchmarks import agreement, early_exit, inference, memory, throughput, training
from benchmarks.inference import up_to_exit
from benchmarks.measure import Rounds, load
from dvt_tf.serving import export
from tests.cascades import random_images, small_cascade

pytestmark = pytest.mark.one_stack


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A small model."""
    small_cascade().save_to_preset(tmp_path / "model")
    return str(tmp_path / "model")


def table(path: Path) -> list[list[str]]:
    """The rows of a CSV file."""
    return list(csv.reader(path.read_text().splitlines()))


def given(monkeypatch: pytest.MonkeyPatch, module: Any, seconds: Callable[[Any], float]) -> None:
    """Has what a benchmark times take these seconds, by its key."""

    def rounds(runs: Mapping[Any, Any], count: int, *_: Any) -> dict[Any, Rounds]:
        return {key: Rounds((seconds(key),) * count) for key in runs}

    monkeypatch.setattr(module, "interleaved", rounds)


@pytest.mark.parametrize("form", ["layers", "float32"])
def test_what_is_timed_is_the_exit(form: str) -> None:
    model = small_cascade()
    images = random_images(3)
    for k in range(3):
        run = up_to_exit(model if form == "layers" else model.optimized(form), k, tf.constant(images))
        np.testing.assert_allclose(run(), model(images)[f"exit_{k + 1}"], atol=2e-5)


@pytest.mark.long
def test_the_table_of_the_folded_form(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {"layers": 0.4, "float32": 0.1, "bfloat16": 0.05, "roofline": 1e-9}
    given(monkeypatch, inference, lambda key: forms[key[0] if isinstance(key, tuple) else key])
    inference.main(folder, batches=[1, 2], rounds=1, out=tmp_path / "out")
    rows = table(tmp_path / "out" / "inference_1.csv")
    assert [row[:2] for row in rows] == [["batch", "exit"], *([batch, k] for batch in "12" for k in "123")]
    assert [row[2] for row in rows[1:]] == ["100.0"] * 3 + ["50.0"] * 3
    assert {tuple(row[3:5]) for row in rows[1:]} == {("0.25 (0.25-0.25)", "0.50 (0.50-0.50)")}
    assert "takes 0.50 (0.50-0.50) of a float32 one" in (tmp_path / "out" / "inference.md").read_text()


@pytest.mark.long
def test_the_table_of_leaving_early(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Keys are exits, and names in the second table: one over the ideal, whose exits take 0.2, 0.4 and 0.6.
    given(monkeypatch, early_exit, lambda key: 0.2 * (key + 1) if isinstance(key, int) else 0.5)
    early_exit.main(folder, batches=[2], rounds=1, out=tmp_path / "out")
    rows = table(tmp_path / "out" / "early_exit_1.csv")
    assert [row[0] for row in rows] == ["batch", "GFLOPs", "2"]
    assert rows[1][3] == "1.00"
    assert [cell.split()[0] for cell in rows[2][1:]] == ["0.33", "0.67", "1.00", "300.0"]
    ideal = table(tmp_path / "out" / "early_exit_2.csv")[1:]
    assert [row[4].split()[0] for row in ideal] == ["2.500", "1.250", "0.833"] * 2


def test_images_that_leave_elsewhere_are_no_measurement(tmp_path: Path) -> None:
    served = tf.saved_model.load(str(export(small_cascade(), tmp_path / "served"))).signatures["with_thresholds"]
    picture = tf.io.encode_jpeg(tf.zeros((28, 28, 3), tf.uint8)).numpy()
    assert early_exit._leaving_at(served, picture, 2, 1, exits=3)().numpy().tolist() == [2, 2]

    def wrong(image_bytes: tf.Tensor, thresholds: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"exit": tf.constant([1, 2])}

    with pytest.raises(RuntimeError, match=r"left at exits \[1, 2\] and not all at 2"):
        early_exit._leaving_at(wrong, picture, 2, 1, exits=3)


def test_peak_memory_is_of_this_process_and_in_bytes(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    held = np.ones(50_000_000, np.uint8)
    memory.main(folder, batch=2, form="float32")
    peak = float(capsys.readouterr().out.rpartition(":")[2])
    assert held.nbytes < peak < 1e12


def test_each_form_has_a_process_of_its_own(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FORMS", ("bfloat16",))
    memory.main(folder, batch=2, out=tmp_path / "out")
    rows = table(tmp_path / "out" / "memory_1.csv")
    assert [row[0] for row in rows] == ["form", "no model", "bfloat16"]
    assert 0.1 < float(rows[2][1]) < 50


def test_the_ideal_is_the_shares_of_the_exits() -> None:
    found = {0: Rounds((1.0, 2.0)), 1: Rounds((3.0, 5.0)), 2: Rounds((7.0, 9.0))}
    assert early_exit._ideal(found, np.array([0.5, 0.25, 0.25])).seconds == (3.0, 4.5)


def test_leaving_early_is_timed_beside_the_ideal(folder: str) -> None:
    rows = early_exit.against_ideal(load(folder), "float32", batch=4, rounds=1)
    assert [row[0] for row in rows] == ["1", "2", "3", "a mix of all"]
    assert all(float(over.split()[0]) > 0 for _, _, over in rows)
    assert [row[0] for row in early_exit.against_ideal(load(folder), "bfloat16", batch=1, rounds=1)] == ["1", "2", "3"]


def test_the_table_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "step_of", lambda *_: lambda: 0.0)
    training.main("dvt_tiny_digits", batch=2, case="7x7 alone", precisions=["float32"])
    assert 0 <= float(capsys.readouterr().out.rpartition(":")[2]) < 1e11

    def peak_of(_module: str, *given: str) -> float:
        training.main("dvt_tiny_digits", batch=2, case=given[-1], precisions=["float32"])  # each can be found
        return 2e9 if given[-1].endswith("alone") else 9e9

    monkeypatch.setattr(training, "peak_of", peak_of)
    training.main("dvt_tiny_digits", batch=2, rounds=1, precisions=["float32"], compiled=True, out=tmp_path)
    rows = table(tmp_path / "training_1.csv")
    names = ["7x7 alone", "10x10 alone", "14x14 alone", "their sum", *(case.name for case in training.WHOLE)]
    assert [row[0] for row in rows[1:]] == [*names, training.COMPILED.name]
    assert rows[4][2:] == ["1.00 (1.00-1.00)", "6.00", "3.00", "1.00"]
    assert rows[8][3:] == ["9.00", "4.50", "1.50"]


@pytest.mark.long
def test_accuracy_against_throughput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, throughput, lambda key: 1.0 + key)
    card = every.RESULTS / "digits_static_7_card.json"
    throughput.main(static=[card], batch=64, images=64, limit=300, rounds=1, out=tmp_path)
    rows = table(tmp_path / "throughput_1.csv")
    assert [row[0] for row in rows[1:]] == [*(f"budget {k + 1}" for k in range(throughput.POINTS)), "digits_static_7"]
    assert [row[4].split()[0] for row in rows[1:3]] == ["10.00", "5.00"]  # the tenth takes ten seconds
    assert rows[1][3].startswith("64 (")
    budgets = [float(row[2]) for row in rows[1:-1]]
    assert budgets == sorted(budgets)
    assert (rows[-1][1], rows[-1][2]) == ("62.3", "0.024")
    assert float(rows[-2][1]) == pytest.approx(89.9, abs=5)
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_agreement_of_both_precisions(tmp_path: Path) -> None:
    agreement.main(limit=256, out=tmp_path)
    rows = table(tmp_path / "agreement_1.csv")
    assert [row[0] for row in rows[1:]] == ["exit 1 alone", "exit 2 alone", "exit 3 alone", "leaving early"]
    assert all(float(row[1]) > 97 and float(row[2]) > 95 for row in rows[1:])
    assert all(float(row[2]) == 100 for row in rows[1:4])
    assert all(float(row[3]) > 60 for row in rows[1:])


def test_all_benchmarks_are_joined_in_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(command: list[str], check: bool) -> None:
        ran.append(command)
        out = Path(command[-1])
        out.mkdir(parents=True)
        (out / f"{command[2].partition('.')[2]}.md").write_text(f"## {out.name}\n")
        (out / "plot.png").write_bytes(b"")

    monkeypatch.setattr(subprocess, "run", run)
    every.main(tmp_path)
    report = (tmp_path / "README.md").read_text()
    assert all(f"## {name}\n" in report and f"![plot]({name}/plot.png)" in report for name in every.ALL)
    assert len(ran) == len(every.ALL)
    with pytest.raises(typer.BadParameter, match="there is no nothing"):
        every.main(tmp_path, only=["nothing"])


@pytest.mark.parametrize("name", sorted({command[0] for command in every.ALL.values()}))
def test_all_benchmarks_that_are_joined_take_what_they_are_given(name: str) -> None:
    app = typer.Typer()
    app.command()(importlib.import_module(f"benchmarks.{name}").main)
    for module, *arguments in every.ALL.values():
        if module == name:
            typer.main.get_command(app).make_context(name, [*arguments, "--out", "x"], resilient_parsing=False)

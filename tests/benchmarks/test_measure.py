"""What the benchmarks share: rounds and their ratios, the tables that are kept, and the models that are measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import tensorflow as tf

from benchmarks import measure
from benchmarks.measure import ROOFLINE_SIDE, Rounds, interleaved, load, share_of_roofline
from benchmarks.report import Report
from tests.cascades import small_cascade


def test_ratios_are_of_the_same_round() -> None:
    """A round in which everything takes ten times as long changes no ratio."""
    ratio = Rounds((1.0, 20.0, 3.0)).over(Rounds((2.0, 40.0, 4.0)))
    assert ratio == (0.5, 0.5, 0.75)
    assert ratio.show() == "0.50 (0.50-0.75)"
    assert Rounds((1.0, 20.0, 3.0)).middle == (3.0, 1.0, 20.0)
    assert Rounds((0.5, 0.25)).rate(4).show("{:.0f}") == "12 (8-16)"


def test_as_many_multiply_adds_as_the_roofline_in_twice_its_time_are_half_of_it() -> None:
    share = share_of_roofline(ROOFLINE_SIDE**3, Rounds((2.0, 4.0)), Rounds((1.0, 2.0)))
    assert share == (0.5, 0.5, 0.5)
    assert share_of_roofline(ROOFLINE_SIDE**3 / 4, Rounds((2.0,)), Rounds((1.0,))).median == 0.125


def test_runs_take_turns_and_the_first_rounds_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    now = 0.0
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)

    def run(name: str, seconds: float) -> None:
        nonlocal now
        order.append(name)
        now += seconds if len(order) > 8 else 100.0  # slow in the two rounds of warming up

    found = interleaved({"a": lambda: run("a", 1.0), "b": lambda: run("b", 3.0)}, rounds=3, warm_up=2, repeats=2)
    assert order == ["a", "a", "b", "b"] * 5
    assert found == {"a": Rounds((1.0, 1.0, 1.0)), "b": Rounds((3.0, 3.0, 3.0))}


def test_a_tensor_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    tensor = tf.constant(1.0)
    monkeypatch.setattr(type(tensor), "numpy", lambda self: waited.append(1))
    interleaved({"tensor": lambda: tensor}, rounds=2, warm_up=1)
    assert len(waited) == 3


def test_a_report_is_kept_as_markdown_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("speed", "How fast it is", tmp_path / "new" / "folder")
    report.table(("what", "ratio"), [["a, b", "0.50"], ["c", "1.00"]], "Of one kind")
    report.table(("what",), [["d"]])
    report.say("That is all.")
    report.close()
    shown = capsys.readouterr().out
    assert "How fast it is" in shown
    assert "0.50" in shown
    assert "That is all." in shown
    folder = tmp_path / "new" / "folder"
    assert {file.name for file in folder.iterdir()} == {"speed.md", "speed_1.csv", "speed_2.csv"}
    assert list(csv.reader((folder / "speed_1.csv").read_text().splitlines())) == [
        ["what", "ratio"],
        ["a, b", "0.50"],
        ["c", "1.00"],
    ]
    text = (folder / "speed.md").read_text()
    assert text.startswith("## How fast it is\n\n")
    assert "Of one kind\n\n| what | ratio |\n| --- | --- |\n| a, b | 0.50 |\n| c | 1.00 |\n\n" in text
    assert text.endswith("That is all.\n")


def test_nothing_is_written_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = Report("speed", "How fast it is")
    report.table(("what",), [["d"]])
    report.close()
    assert not list(tmp_path.iterdir())


def test_a_preset_without_weights_is_untrained_and_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    assert load("dvt_tiny_digits").card["figures"]
    assert load("dvt_t2t_vit_12").num_exits == 3
    folder = tmp_path / "model"
    small_cascade().save_to_preset(folder)
    (folder / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="weights"):
        load(str(folder))

"""What a run says of itself: lines per epoch, history over resumed runs, and a folder that is gone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from training import reporting
from training.reporting import HistoryFile, ProgressBar, read_history
from training.saving import EpochLogs
from training.schedule import Plan

pytestmark = pytest.mark.one_stack


def test_an_epoch_is_a_line_with_its_figures_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(Plan(2, 3, 0, 0), batch_size=8, step=0)
    for epoch in range(3):
        bar.on_epoch_begin(epoch)
        for step in range(2):
            bar.on_train_batch_end(step, {"loss": 1.0})
        logs = {"loss": 2.5, "exit_1_top1": 0.25, "exit_2_top1": 0.5, "val_exit_1_top1": 0.2, "val_exit_2_top1": 0.4}
        bar.on_epoch_end(epoch, logs)
        assert logs["images_per_second"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 1/3, loss 2.5000, top-1 25.0 / 50.0 %, val 20.0 / 40.0 %, ")
    assert lines[0].endswith(" left")
    assert lines[2].endswith(" images/s")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (29, "29 s"), (90, "2 min"), (3700, "1 h 2 min"), (200_000, "2 d 7 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert reporting.duration(seconds) == words


def test_lines_of_one_of_several_processes_begin_with_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # what it was comes back
    reporting.name_lines("two_none_seed0")
    print("half of a line", end="")
    print(", and the rest\n\nthe third")
    bar = ProgressBar(Plan(1, 1, 0, 0), 4, 0)
    assert not bar.console.is_terminal
    bar.console.print("epoch 1/1")
    assert capsys.readouterr().out.splitlines() == [
        "two_none_seed0: half of a line, and the rest",
        "two_none_seed0: ",
        "two_none_seed0: the third",
        "two_none_seed0: epoch 1/1",
    ]


def test_history_of_a_resumed_run_drops_what_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    first = HistoryFile(path, 40, 0, rate=lambda epoch: 0.1 / (epoch + 1))
    for epoch in range(3):
        first.on_epoch_end(epoch, {"loss": 3.0 - epoch})
    again = HistoryFile(path, 40, 2)
    again.on_epoch_end(2, {"loss": 0.5, "val_exit_1_top1": 0.75})
    rows = read_history(path)
    assert [(row["epoch"], row["images"], row["loss"]) for row in rows] == [
        ("1", "40", "3"),
        ("2", "80", "2"),
        ("3", "120", "0.5"),
    ]
    assert rows[1]["learning_rate"] == "0.05"
    reporting.plot_history(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_a_folder_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    history = HistoryFile(folder / "history.csv", 40, 0)
    history.on_epoch_end(0, {"loss": 1.0})
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=r"run, the folder of the run, is gone; .* --resume"):
        history.on_epoch_end(1, {"loss": 1.0})
    assert not folder.exists()


def test_the_logs_of_an_epoch_in_two_parts_are_those_of_all_of_it() -> None:
    logs = EpochLogs({"loss": 4.0}, steps=1, steps_per_epoch=4)
    assert logs.of_all({"loss": 1.0}, 2) == {"loss": pytest.approx(2.5)}
    whole = {"loss": 2.0}
    logs.on_epoch_end(0, whole)
    assert whole == {"loss": pytest.approx(2.5)}  # (4 + 3 * 2) / 4
    after = {"loss": 2.0}
    logs.on_epoch_end(1, after)
    assert after == {"loss": 2.0}

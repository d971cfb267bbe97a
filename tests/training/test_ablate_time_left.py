"""The time that a study has left, as its command tells it."""

from __future__ import annotations

import itertools

import pytest

from training import ablate

pytestmark = pytest.mark.one_stack


def test_the_time_left_is_told_from_the_second_cell_on(
    study: list[str], quick: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--study", "feature-location", *study, "--only", "two_none", "--seeds"]
    times = itertools.count(0, 5)
    monkeypatch.setattr(ablate.time, "monotonic", lambda: float(next(times)))
    assert ablate.main([*arguments, "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["cell 1 of 2: two_none, seed 0", "cell 2 of 2: two_none, seed 1, 5 s left in all"]
    monkeypatch.setattr(ablate, "shares_of_cores", lambda count: [None] * count)
    times = itertools.count(0, 6)
    assert ablate.main([*arguments, "5", "--at-once", "2"]) == 0
    told = [line.partition("seed ")[2] for line in capsys.readouterr().out.splitlines()[:3]]
    # Two at a time, 3 left: by what the epochs of kept ones took, 3 s each; then 1 left, after two that took 12 s each.
    assert told == ["2, 4 s left in all", "3, 4 s left in all", "4, 6 s left in all"]


def test_a_resumed_cell_counts_with_all_that_its_epochs_took(
    study: list[str], quick: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.count()  # 1 s a cell here
    monkeypatch.setattr(ablate.time, "monotonic", lambda: float(next(times)))
    assert ablate.main(["--study", "feature-location", *study, "--only", "two_none", "--seeds", "2"]) == 0
    assert "cell 2 of 2: two_none, seed 1, 3 s left in all" in capsys.readouterr().out  # 3 s by the history


def test_the_time_left_is_not_misled_by_a_cell_that_was_paused() -> None:
    cells = ablate.cells_of(["two_none"], 3)
    assert ablate._rate(dict(zip(cells, (3.0, 5000.0, 4.0))), dict.fromkeys(cells, 12.0)) == 3.0

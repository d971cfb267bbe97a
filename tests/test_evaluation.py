"""Summaries and curves of stored results, and their files, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvt_tf import files
from dvt_tf.evaluation import (
    BUDGETS,
    all_curves,
    bootstrap_interval,
    budgeted_curve,
    read_summaries,
    read_summary,
    summary,
    temperatures_of,
    write_curves,
    write_summary,
)
from dvt_tf.reliability import reliability
from dvt_tf.results import ExitResults
from dvt_tf.thresholds import choose, operate, published_settings
from tests.exit_results import made_up


@pytest.fixture(scope="module")
def chosen_on() -> ExitResults:
    return made_up(300, seed=1)


@pytest.fixture(scope="module")
def scored_on() -> ExitResults:
    return made_up(500, seed=2)


CARD = {"name": "made up", "thresholds": {"values": [0.7, 0.6]}}


def test_the_published_curve_is_its_59_settings_on_other_images(chosen_on: ExitResults, scored_on: ExitResults) -> None:
    curve = budgeted_curve(chosen_on, scored_on, "published")
    settings = published_settings(chosen_on.confidences)
    assert len(curve) == 59
    expected = [operate(scored_on.confidences, scored_on.correct, scored_on.gmacs, values) for values in settings]
    assert sorted((p.scored.gmacs, p.scored.accuracy) for p in curve) == sorted((p.gmacs, p.accuracy) for p in expected)
    costs = [point.scored.gmacs for point in curve]
    assert costs == sorted(costs)


@pytest.mark.parametrize("method", ["exact", "evolutionary"])
def test_other_curves_are_choices_for_budgets_on_other_images(
    chosen_on: ExitResults, scored_on: ExitResults, method: str
) -> None:
    curve = budgeted_curve(chosen_on, scored_on, method)
    assert len(curve) == BUDGETS
    budgets = sorted(point.budget for point in curve)
    np.testing.assert_allclose(budgets, np.linspace(1.0, 8.0, BUDGETS))
    for point in curve[::10]:
        [chosen] = choose(chosen_on.confidences, chosen_on.correct, chosen_on.gmacs, point.budget, method)
        np.testing.assert_array_equal(point.scored.thresholds, chosen.thresholds)
        again = operate(scored_on.confidences, scored_on.correct, scored_on.gmacs, chosen.thresholds)
        assert (point.scored.accuracy, point.scored.gmacs) == (again.accuracy, again.gmacs)
        assert point.low <= again.accuracy <= point.high


def test_the_interval_is_that_of_drawing_images_anew() -> None:
    random = np.random.default_rng(0)
    right = random.random(200) < 0.8
    drawn = right[random.integers(0, 200, (20_000, 200))].mean(1)
    low, high = bootstrap_interval(float(right.mean()), 200)
    assert low == pytest.approx(np.quantile(drawn, 0.025), abs=0.0051)
    assert high == pytest.approx(np.quantile(drawn, 0.975), abs=0.0051)
    assert bootstrap_interval(1.0, 50) == (1.0, 1.0)


def test_the_summary_by_hand(scored_on: ExitResults) -> None:
    found = summary(scored_on, CARD)
    assert found["images"] == 500
    for k, at in enumerate(found["exits"]):
        assert at["gmacs"] == scored_on.gmacs[k]
        assert at["top1"] == pytest.approx(scored_on.correct[:, k].mean())
        assert scored_on.in_top5 is not None
        assert at["top5"] == pytest.approx(scored_on.in_top5[:, k].mean())
        own = reliability(scored_on.confidences[:, k], scored_on.correct[:, k])
        assert at["calibration_error"] == own.error
        assert "temperature" not in at
    c = scored_on.confidences
    leaves = np.where(c[:, 0] >= 0.7, 0, np.where(c[:, 1] >= 0.6, 1, 2))
    adaptive = found["adaptive"]
    assert adaptive["top1"] == pytest.approx(scored_on.correct[np.arange(500), leaves].mean())
    assert adaptive["gmacs"] == pytest.approx(scored_on.gmacs[leaves].mean())
    assert adaptive["share_of_full_cost"] == pytest.approx(scored_on.gmacs[leaves].mean() / 8)
    np.testing.assert_allclose(adaptive["exit_shares"], np.bincount(leaves, minlength=3) / 500)
    assert adaptive["top1_interval"][0] < adaptive["top1"] < adaptive["top1_interval"][1]
    json.dumps(found)


def test_temperatures_come_from_other_images(chosen_on: ExitResults, scored_on: ExitResults) -> None:
    temperatures = temperatures_of(chosen_on)
    found = summary(scored_on, CARD, temperatures)
    assert [at["temperature"] for at in found["exits"]] == temperatures
    assert all(0 <= at["calibration_error_scaled"] <= 1 for at in found["exits"])


def test_the_curves_as_csv(tmp_path: Path, chosen_on: ExitResults, scored_on: ExitResults) -> None:
    curves = all_curves(chosen_on, scored_on)
    write_curves(tmp_path / "curve.csv", curves)
    with (tmp_path / "curve.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("method", "budget", "gmacs", "top1", "top1_low", "top1_high"),
        *("threshold_1", "threshold_2", "share_exit_1", "share_exit_2", "share_exit_3"),
    ]
    assert {row["method"] for row in rows} == {"exact", "evolutionary", "published"}
    assert len(rows) == len(curves) == 59 + 2 * BUDGETS
    for row, point in zip(rows, curves):
        scored = point.scored
        numbers = [point.budget, scored.gmacs, scored.accuracy, point.low, point.high, *scored.thresholds]
        np.testing.assert_allclose([float(v) for v in list(row.values())[1:8]], numbers, rtol=1e-5)
        assert sum(float(row[f"share_exit_{k}"]) for k in (1, 2, 3)) == pytest.approx(1.0, abs=1e-5)


def test_a_summary_is_read_back_and_anything_else_refused(tmp_path: Path, scored_on: ExitResults) -> None:
    write_summary(tmp_path / "summary.json", summary(scored_on, CARD))
    assert read_summary(tmp_path / "summary.json") == summary(scored_on, CARD)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_summary(tmp_path / "nowhere.json")
    for text in ("{", "[]", '{"exits": []}', '{"exits": [{"gmacs": 1}]}', '"x"', "\xff"):
        (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"is no summary\.json of dvt evaluate"):
            read_summary(tmp_path / "bad.json")


def test_summaries_side_by_side_have_names_of_their_own_and_are_of_one_data_set(
    tmp_path: Path, scored_on: ExitResults
) -> None:
    ways = ("a/run/summary.json", "b/run/summary.json", "kept/static_7_summary.json", "kept/static_10_summary.json")
    paths = [tmp_path / way for way in ways]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_summary(path, {"data": "digits@test", **summary(scored_on, CARD)})
    assert list(read_summaries(paths[1:])) == ["run", "static_7", "static_10"]
    assert list(read_summaries([*paths, paths[0]], "digits@test")) == [
        *("a/run", "b/run", "kept/static_7", "kept/static_10")
    ]
    assert read_summaries([]) == {}
    with pytest.raises(ValueError, match=r"static_7_summary\.json is of digits@test, and this of shapes@test"):
        read_summaries(paths[2:], "shapes@test")


def test_a_failed_write_leaves_the_old_files_and_nothing_else(
    tmp_path: Path, chosen_on: ExitResults, scored_on: ExitResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = budgeted_curve(chosen_on, scored_on, "published")
    for name in ("curve.csv", "summary.json"):
        (tmp_path / name).write_text("old")

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_curves(tmp_path / "curve.csv", curve)
    with pytest.raises(OSError, match="disk full"):
        write_summary(tmp_path / "summary.json", {})
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {
        "curve.csv": b"old",
        "summary.json": b"old",
    }

"""The plots of an evaluation: PNGs with something on them, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from dvt_tf import files, plots
from dvt_tf.evaluation import CurvePoint, all_curves, summary
from dvt_tf.results import ExitResults
from tests.exit_results import made_up

CARD = {"name": "made up", "thresholds": {"values": [0.7, 0.6]}}


@pytest.fixture(scope="module")
def results() -> ExitResults:
    return made_up(300)


@pytest.fixture(scope="module")
def curves(results: ExitResults) -> list[CurvePoint]:
    return all_curves(results, made_up(200, seed=3))


def check_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_curves(
    tmp_path: Path, results: ExitResults, curves: list[CurvePoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[tuple[float, float]]] = {}
    plot = Axes.plot

    def noted(axes: Axes, x: Any, y: Any, *rest: Any, **more: Any) -> Any:
        drawn[str(more.get("label"))] = list(zip(x, y, strict=True))
        return plot(axes, x, y, *rest, **more)

    monkeypatch.setattr(Axes, "plot", noted)
    beside = {"static_7": {"exits": [{"gmacs": 1.5, "top1": 0.5}]}}
    plots.plot_curves(tmp_path / "curve.png", curves, results, CARD, beside)
    check_picture(tmp_path / "curve.png")
    assert drawn["static_7"] == [(1.5, 50.0)]
    own = summary(results, CARD)["adaptive"]
    assert drawn["the model's own thresholds"] == [(own["gmacs"], 100 * own["top1"])]
    exact = [(p.scored.gmacs, 100 * p.scored.accuracy) for p in curves if p.method == "exact"]
    assert drawn["best thresholds"] == exact
    assert {"evolutionary search (paper)", "published rule", "one exit for all images"} <= drawn.keys()


@pytest.mark.parametrize("exits", [1, 3])
def test_confidences(tmp_path: Path, exits: int) -> None:
    results = made_up(200, exits=exits)
    plots.plot_confidences(tmp_path / "confidences.png", results, [1.3] * exits)
    check_picture(tmp_path / "confidences.png")


def test_shares(tmp_path: Path, curves: list[CurvePoint]) -> None:
    plots.plot_shares(tmp_path / "shares.png", curves)
    check_picture(tmp_path / "shares.png")


def test_a_failed_write_leaves_the_old_plot(
    tmp_path: Path, results: ExitResults, curves: list[CurvePoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plot.png"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", full)
    for write in (
        lambda: plots.plot_curves(path, curves, results, CARD),
        lambda: plots.plot_confidences(path, results),
        lambda: plots.plot_shares(path, curves),
    ):
        with pytest.raises(OSError, match="disk full"):
            write()
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

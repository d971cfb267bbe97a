"""`dvt evaluate` on a folder of images: its figures are those computed by hand, and its refusals are one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvt_tf import datasets
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cli import main
from dvt_tf.exit_rule import route
from tests.cascades import small_cascade

CLASSES = [f"class_{i}" for i in range(7)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, and a data folder with the model's seven classes."""
    root = tmp_path_factory.mktemp("evaluate")
    model = small_cascade(head=2.0)
    model.card["thresholds"] = {"values": [0.6, 0.6], "method": "by hand", "data": "none"}
    model.save_to_preset(root / "model")
    random = np.random.default_rng(5)
    for split, count in (("train", 1), ("val", 12)):
        for name in CLASSES:
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                coarse.resize((28, 28), Image.Resampling.BILINEAR).save(folder / f"{i}.png")
    return root


@pytest.mark.long
def test_figures_are_those_computed_by_hand(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "out"
    data = f"folder:{place / 'data'}"
    assert main(["evaluate", "--model", str(place / "model"), "--data", data, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "top-1" in printed
    summary = json.loads((out / "summary.json").read_text())

    model = DynamicVisionTransformer.from_preset(place / "model")
    logits, labels = [], []
    for images, wanted in datasets.load(data, "test", model.card, 8):
        logits.append(np.stack([value.numpy() for value in model(images).values()], 1))
        labels.append(wanted.numpy())
    scores, answers = np.concatenate(logits), np.concatenate(labels)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    right = scores.argmax(-1) == answers[:, None]
    assert summary["images"] == len(answers) > 10
    np.testing.assert_allclose([at["top1"] for at in summary["exits"]], right.mean(0), atol=1e-6)
    top5 = (np.argsort(-scores, -1)[..., :5] == answers[:, None, None]).any(-1)
    np.testing.assert_allclose([at["top5"] for at in summary["exits"]], top5.mean(0), atol=1e-6)
    exits = route(shares.max(-1), [0.6, 0.6]) - 1
    assert len(set(exits)) == 3
    assert summary["adaptive"]["top1"] == pytest.approx(right[np.arange(len(exits)), exits].mean())
    costs = np.array([at["gmacs"] for at in summary["exits"]])
    assert summary["adaptive"]["gmacs"] == pytest.approx(costs[exits].mean())

    rows = list(csv.DictReader((out / "curve.csv").open()))
    assert {row["method"] for row in rows} == {"exact", "evolutionary", "published"}
    spent = [float(row["gmacs"]) for row in rows if row["method"] == "published"]
    assert len(spent) == 59
    assert spent == sorted(spent)
    assert costs[0] * 0.999 <= spent[0] <= spent[-1] <= costs[-1] * 1.001
    assert sorted(path.name for path in out.iterdir()) == [
        *("confidences.png", "curve.csv", "curve.png", "results.safetensors", "results_calibration.safetensors"),
        *("shares.png", "summary.json"),
    ]

    # From the results that were kept the same comes out, and no image is read.
    again = place / "again"
    (place / "data").rename(place / "away")
    try:
        command = ["evaluate", "--model", str(place / "model"), "--results", str(out), "--out", str(again)]
        assert main([*command, "--temperature", "--beside", str(out / "summary.json")]) == 0
    finally:
        (place / "away").rename(place / "data")
    assert (again / "curve.csv").read_text() == (out / "curve.csv").read_text()
    repeated = json.loads((again / "summary.json").read_text())
    for at in repeated["exits"]:
        assert 0.05 <= at.pop("temperature") <= 20
        assert at.pop("calibration_error_scaled") >= 0
    assert repeated == summary


def test_one_exit_alone_has_no_curve(place: Path) -> None:
    small_cascade(token_grids=(2,), head=2.0).save_to_preset(place / "single")
    out = place / "single_out"
    data = f"folder:{place / 'data'}"
    assert main(["evaluate", "--model", str(place / "single"), "--data", data, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("confidences.png", "results.safetensors", "results_calibration.safetensors", "summary.json")
    }
    assert len(json.loads((out / "summary.json").read_text())["exits"]) == 1


def test_thresholds_are_not_scored_where_they_were_chosen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"folder:{place / 'data'}"
    model = DynamicVisionTransformer.from_preset(place / "model")
    model.card = {**model.card, "thresholds": {**model.card["thresholds"], "data": f"{data}@val"}}
    model.save_to_preset(place / "chosen_on_val")
    assert main(["evaluate", "--model", str(place / "chosen_on_val"), "--data", f"{data}@val"]) == 2
    assert "were chosen on" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(place / "chosen_on_val"), "--data", data]) == 0


@pytest.mark.parametrize(
    ("data", "extra", "message"),
    [
        ("folder:{place}/data@calibration", ["--out", "{place}/no"], "calibration split"),
        ("folder:{place}/data", ["--out", "{place}/model/config.json"], "is a file"),
        ("folder:{place}/nowhere", [], "nowhere"),
        ("photos", [], "photos"),
        ("digits", [], "class"),
        ("images:{place}/data", [], "has no labels"),
        ("folder:{place}/data", ["--results", "{place}"], "either --data"),
        ("folder:{place}/data", ["--beside", "{place}/x.json"], "--beside is for the plot"),
        ("folder:{place}/data", ["--beside", "{place}/x.json", "--out", "{place}/no"], "does not exist"),
    ],
)
def test_refusals_are_one_line(
    place: Path, data: str, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = [text.format(place=place) for text in extra]
    assert main(["evaluate", "--model", str(place / "model"), "--data", data.format(place=place), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert not (place / "no").exists()

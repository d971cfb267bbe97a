"""The comparison with other runtimes: the same logits from converted weights, and the arithmetic of its tables."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import other_runtimes, runtimes
from benchmarks.measure import Middle
from benchmarks.other_runtimes import OURS, RUNTIMES, Work, channels_first, deit, forcing, serve
from benchmarks.report import Report
from benchmarks.runtimes import (
    INSTALL,
    MIXES,
    Contender,
    Found,
    break_even,
    compare,
    mix_counts,
    mix_seconds,
    published_state,
    running,
    show,
    show_share,
    write_work,
)
from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.published import load_published_weights
from tests.cascades import random_images, small_cascade, small_config

pytestmark = pytest.mark.one_stack

seconds = st.floats(1e-4, 10)


@given(seconds, seconds, seconds)
def test_above_the_break_even_and_nowhere_else_the_cascade_is_faster(first: float, last: float, other: float) -> None:
    least = break_even(first, last, other)
    for share in np.linspace(0, 1, 11):
        if first < last and abs(share - least) > 1e-6 * last / (last - first):
            assert (share * first + (1 - share) * last < other) == (share > least)
    if first >= last:
        assert least == (-np.inf if first < other else np.inf)


def test_the_break_even_of_plain_numbers() -> None:
    assert break_even(1, 5, 2) == 0.75
    assert break_even(1, 5, 6) < 0
    assert break_even(2, 5, 1) > 1
    assert break_even(2, 5, 2) == 1


def test_how_a_share_is_shown() -> None:
    assert show_share(Middle(0.734, 0.7, 0.75)) == "73 % (70-75)"
    assert show_share(Middle(0.98, 0.9, 1.2)) == "98 % (90-100)"
    assert show_share(Middle(-0.1, -0.2, 0.1)) == "always"
    assert show_share(Middle(1.0, 0.9, np.inf)) == "never"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5).filter(lambda shares: sum(shares) > 0.01), st.integers(1, 64))
def test_a_mix_fills_the_batch_and_is_off_by_less_than_an_image(shares: list[float], batch: int) -> None:
    counts = mix_counts(shares, batch)
    assert sum(counts) == batch
    for share, count in zip(shares, counts, strict=True):
        assert abs(share / sum(shares) * batch - count) < 1 + 1e-6


def test_the_mixes_of_a_batch_of_32() -> None:
    assert mix_counts(MIXES["60/25/15 %"], 32) == (19, 8, 5)
    assert sorted(mix_counts(MIXES["a third each"], 32)) == [10, 11, 11]
    assert mix_counts(MIXES["all at exit 3"], 32) == (0, 0, 32)


@pytest.mark.parametrize("exits", [(3, 0, 0), (0, 2, 1), (1, 1, 2)], ids=str)
def test_images_leave_where_they_are_told_to(exits: tuple[int, ...]) -> None:
    classifier = AdaptiveClassifier(small_cascade())
    left = classifier(random_images(sum(exits)), forcing(exits))["exit"].numpy()
    assert [int((left == k + 1).sum()) for k in range(3)] == list(exits)


@pytest.mark.parametrize("fields", [{}, {"token_grids": (3,)}, {"qkv_bias": False, "norm_epsilon": 1e-3}], ids=str)
def test_published_weights_are_read_back(fields: dict[str, Any]) -> None:
    model, other = (small_cascade(seed, **{"token_grids": (4,), **fields}) for seed in range(2))
    load_published_weights(other, published_state(model))
    for own, read in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(own, read)


# 28 pixels to 3 patches a side is padded
@pytest.mark.parametrize("fields", [{}, {"token_grids": (3,)}, {"qkv_bias": False, "norm_epsilon": 1e-3}], ids=str)
def test_pytorch_has_our_logits(fields: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    model = small_cascade(**{"token_grids": (4,), **fields})
    images = random_images(3)
    with torch.inference_mode():
        logits = deit(model.config, published_state(model))(torch.from_numpy(channels_first(images))).numpy()
    np.testing.assert_allclose(logits, model(images)["exit_1"], atol=1e-4)


class Fake:
    """A process that answers at once: forms differ by `difference`, those of `fails` do not run."""

    def __init__(self, about: dict[str, Any], difference: float = 0.0, fails: Sequence[int] = ()) -> None:
        self.about, self.difference, self.fails = about, difference, fails
        self.asked: list[dict[str, Any]] = []

    def ask(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        if request["repeats"]:
            return {"seconds": 0.0}
        return {"error": "it broke"} if request["form"] in self.fails else {"difference": self.difference}


def compare_fakes(monkeypatch: pytest.MonkeyPatch, folder: Path, **fakes: Fake) -> Found:
    monkeypatch.setattr(runtimes, "running", lambda name, folder: contextlib.nullcontext(fakes[name]))
    return compare(small_config(), (1, 4), 2, list(fakes), folder)


def test_what_is_missing_or_breaks_is_noted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [["eager", "float32"], ["compiled", "float32"]]
    there = Fake({"version": "1", "forms": forms}, fails=[1])
    found = compare_fakes(monkeypatch, tmp_path, there=there, absent=Fake({"missing": "absent"}))
    assert found.notes[0] == f"absent: not installed (absent is missing): {INSTALL}"
    assert set(found.notes[1:]) == {"there compiled, float32: does not run here: it broke"}
    assert set(found.alone) == {(batch, Contender("there", 0, "eager", "float32")) for batch in (1, 4)}
    assert {request["form"] for request in there.asked if request["repeats"]} == {0}
    with pytest.raises(RuntimeError, match="DVT-TF compiled, float32: does not run here: it broke"):
        compare_fakes(monkeypatch, tmp_path, **{OURS: there})


def test_nothing_is_timed_where_float32_logits_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Fake({"version": "1", "forms": [["", "bfloat16"]]}, difference=0.02)
    assert compare_fakes(monkeypatch, tmp_path, half=half).differences
    for difference in (0.002, math.nan):
        wrong = Fake({"version": "1", "forms": [["", "float32"]]}, difference)
        with pytest.raises(RuntimeError, match=r"wrong: a logit differs by .* from ours"):
            compare_fakes(monkeypatch, tmp_path, half=half, wrong=wrong)
        assert not any(request["repeats"] for request in wrong.asked)


def test_single_images_take_the_mean_of_the_exits() -> None:
    """And a batch what it took."""
    cascade = Contender(OURS, 0, "cascade", "float32")
    taken = {(cascade, (1, 0, 0)): (1.0, 2.0), (cascade, (0, 1, 0)): (3.0, 3.0), (cascade, (0, 0, 1)): (6.0, 9.0)}
    assert mix_seconds(taken, cascade, MIXES["a third each"], 1) == pytest.approx((10 / 3, 14 / 3))
    assert mix_seconds({(cascade, (2, 1, 1)): (7.0,)}, cascade, (0.5, 0.25, 0.25), 4) == (7.0,)


def test_a_missing_package_is_the_first_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(work: Work) -> list[other_runtimes.Form]:
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    write_work(small_config(), (), tmp_path)
    monkeypatch.setitem(RUNTIMES, "OpenVINO", ("openvino", absent))
    serve("OpenVINO", tmp_path, answers := io.StringIO())
    assert json.loads(answers.getvalue()) == {"missing": "openvino"}


def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a process ended \(1\).*config\.json"), running(OURS, tmp_path):
        pass


@pytest.mark.long
def test_every_runtime_that_is_here_has_our_logits(tmp_path: Path) -> None:
    names = [name for name in RUNTIMES if name != "PyTorch"]  # compiling takes too long
    found = compare(small_config(), (1, 4), 2, names, tmp_path)
    assert len(found.versions) + len(found.notes) == len(names)
    assert {contender.runtime for _, contender in found.alone} == set(found.versions)
    assert all(len(run.seconds) == 2 and min(run.seconds) > 0 for run in [*found.alone.values(), *found.mixes.values()])
    for (_, contender), difference in found.differences.items():
        assert difference < (1e-4 if contender.precision == "float32" else 0.3)
    report = Report("runtimes", "a test", tmp_path / "out")
    show(found, report)
    report.close()
    text = (tmp_path / "out" / "runtimes.md").read_text()
    assert text.count("| DVT-TF folded, bfloat16 |") == 4  # two batches, two precisions of the cascade
    assert text.count("| break-even |") == 4


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "compare", lambda config, *rest: compare(small_config(), *rest))
    app = typer.Typer()
    app.command()(runtimes.main)
    result = CliRunner().invoke(app, ["--batch", "2", "--rounds", "1", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "times our float32" in (tmp_path / "runtimes.md").read_text()

"""What stored results say: every exit alone, leaving early by a card's thresholds, and accuracy against mean cost."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dvt_tf.files import written_whole
from dvt_tf.reliability import fit_temperature, reliability, scaled_confidences
from dvt_tf.results import ExitResults
from dvt_tf.thresholds import METHODS, Operating, choose, operate, published_settings

BUDGETS = 40  # of a curve, evenly from the first exit's cost to the full cascade's
_INTERVAL = 0.95


class CurvePoint(NamedTuple):
    """Thresholds chosen on one set of images and applied to another.

    method: one of `METHODS`. budget: 10^9 multiply-accumulates; for the published rule, which knows no budgets, what
    its setting costs where it was chosen. scored: what they do on the other images. low, high: 95 % bootstrap interval
    of the accuracy there.
    """

    method: str
    budget: float
    scored: Operating
    low: float
    high: float


def summary(
    results: ExitResults, card: Mapping[str, Any], temperatures: Sequence[float] | None = None
) -> dict[str, Any]:
    """What the results say, as plain JSON values: every exit alone, and leaving early by the card's thresholds.

    Args:
        temperatures: (K,) one for each exit, fitted on other images (`fit_temperature`); adds what they change.
    """
    values = np.asarray(card["thresholds"]["values"], np.float32)
    own = operate(results.confidences, results.correct, results.gmacs, values)
    exits = []
    for k, (gmacs, top1, top5) in enumerate(zip(results.gmacs, results.top1(), results.top5(), strict=True)):
        error = reliability(results.confidences[:, k], results.correct[:, k]).error
        entry = {"gmacs": float(gmacs), "top1": top1, "top5": top5, "calibration_error": error}
        if temperatures is not None:
            scaled = scaled_confidences(results, k + 1, temperatures[k])
            entry["temperature"] = temperatures[k]
            entry["calibration_error_scaled"] = reliability(scaled, results.correct[:, k]).error
        exits.append(entry)
    low, high = bootstrap_interval(own.accuracy, len(results))
    return {
        "images": len(results),
        "exits": exits,
        "adaptive": {
            "thresholds": [float(value) for value in values],
            "top1": own.accuracy,
            "top1_interval": [low, high],
            "gmacs": own.gmacs,
            "share_of_full_cost": own.gmacs / float(results.gmacs[-1]),
            "exit_shares": [float(share) for share in own.shares],
        },
    }


def temperatures_of(results: ExitResults) -> list[float]:
    """The temperature of every exit, fitted on these images."""
    return [fit_temperature(results, k + 1) for k in range(results.num_exits)]


def budgets_between(gmacs: np.ndarray, count: int = BUDGETS) -> np.ndarray:
    """(count,) budgets evenly from the first exit's cost to the full cascade's."""
    return np.linspace(gmacs[0], gmacs[-1], count)


def budgeted_curve(chosen_on: ExitResults, scored_on: ExitResults, method: str) -> list[CurvePoint]:
    """Accuracy against mean cost: a method's thresholds from one set of images, applied to another."""
    confidences, correct, gmacs = chosen_on.confidences, chosen_on.correct, chosen_on.gmacs
    if method == "published":
        chosen = [operate(confidences, correct, gmacs, values) for values in published_settings(confidences)]
        budgets = [point.gmacs for point in chosen]
    else:
        budgets = budgets_between(gmacs).tolist()
        chosen = choose(confidences, correct, gmacs, budgets, method)
    curve = []
    for budget, point in zip(budgets, chosen, strict=True):
        scored = operate(scored_on.confidences, scored_on.correct, gmacs, point.thresholds)
        curve.append(CurvePoint(method, budget, scored, *bootstrap_interval(scored.accuracy, len(scored_on))))
    return sorted(curve, key=lambda point: point.scored.gmacs)


def all_curves(chosen_on: ExitResults, scored_on: ExitResults) -> list[CurvePoint]:
    """The curves of all methods, one after another."""
    return [point for method in METHODS for point in budgeted_curve(chosen_on, scored_on, method)]


def bootstrap_interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of an accuracy.

    Drawing images anew with replacement gives a binomial number of right ones, so its quantiles need no drawing.
    """
    from scipy.stats import binom  # half a second that a command which only looks up thresholds need not wait for

    tails = ((1 - _INTERVAL) / 2, (1 + _INTERVAL) / 2)
    low, high = (float(binom.ppf(tail, images, accuracy)) / images for tail in tails)
    return low, high


def write_curves(path: Path, curves: Sequence[CurvePoint]) -> None:
    """Curves as CSV, one row per point; written whole or not at all."""
    exits = len(curves[0].scored.shares)
    names = [f"threshold_{k + 1}" for k in range(exits - 1)] + [f"share_exit_{k + 1}" for k in range(exits)]
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "budget", "gmacs", "top1", "top1_low", "top1_high", *names])
        for point in curves:
            scored = point.scored
            values = [point.budget, scored.gmacs, scored.accuracy, point.low, point.high]
            writer.writerow([point.method, *(f"{v:.6g}" for v in [*values, *scored.thresholds, *scored.shares])])


def write_summary(path: Path, values: Mapping[str, Any]) -> None:
    """A summary as JSON, written whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_summaries(paths: Sequence[Path], data: str = "") -> dict[str, dict[str, Any]]:
    """Summaries of other models by what a plot calls them, each by a name of its own.

    Args:
        data: what they must be of, SPEC@SPLIT; "" for anything.

    Raises:
        FileNotFoundError, ValueError: as `read_summary`; or one is of other data.
    """
    found = {}
    for name, path in _names_of(paths).items():
        found[name] = read_summary(path)
        of = found[name].get("data", data)
        if data and of != data:
            raise ValueError(f"{path} is of {of}, and this of {data}: they cannot stand side by side")
    return found


def _names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """A summary's folder, or its own file name, with as many of the folders above as tell one from another."""

    def parts(path: Path) -> tuple[str, ...]:
        own = () if path.name == "summary.json" else (path.stem.removesuffix("_summary"),)
        return (*path.parent.parts, *own)

    distinct = list(dict.fromkeys(path.resolve() for path in paths))
    for count in range(1, 1 + max((len(parts(path)) for path in distinct), default=0)):
        named = {"/".join(parts(path)[-count:]): path for path in distinct}
        if len(named) == len(distinct):
            return named
    return {str(path): path for path in distinct}


def read_summary(path: Path) -> dict[str, Any]:
    """What `write_summary` wrote, of this or of another model.

    Raises:
        FileNotFoundError: no such file. ValueError: no summary.
    """
    if not path.is_file():
        raise FileNotFoundError(f"summary {str(path)!r} does not exist")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        points = [(float(at["gmacs"]), float(at["top1"])) for at in found["exits"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no summary.json of dvt evaluate: {error!r}") from error
    if not points:
        raise ValueError(f"{path} is no summary.json of dvt evaluate: it has no exits")
    return dict(found)

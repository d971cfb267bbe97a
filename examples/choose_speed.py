"""Turns "at most so many GFLOPs on average", or the model's own promise, into thresholds and asks with those.

For example: python examples/choose_speed.py photo.jpg --card served/dvt/1 --budget 0.08

What the model knows of budgets and promises is in its card, assets/config.json of the exported version, which is all
that is needed of it here. Needs rest_client.py beside it, and Python's standard library.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rest_client import ClientError, ask, model_url, read_files, report


def read_card(path: Path) -> dict[str, Any]:
    """The card: a file, or in an exported version's folder."""
    file = path / "assets" / "config.json" if path.is_dir() else path
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClientError(f"cannot read the card {str(file)!r}: {error.strerror}") from None
    except ValueError:
        raise ClientError(f"{str(file)!r} is no card: it is not JSON") from None
    if not isinstance(card, dict) or "thresholds" not in card:
        raise ClientError(f"{str(file)!r} is no model's card")
    return card


def points(card: Mapping[str, Any]) -> list[tuple[float, float, list[float]]]:
    """What the card knows of budgets: mean cost, share of right answers, thresholds."""
    if "budgets" in card:
        table = card["budgets"]
        return [(point["gmacs"], point[table["measure"]], point["thresholds"]) for point in table["points"]]
    published = card.get("published", {})
    curve = zip(published.get("curve", ()), published.get("thresholds", ()))
    return [(gflops, top1 / 100, thresholds) for (gflops, top1), thresholds in curve]


def for_budget(card: Mapping[str, Any], budget: float) -> tuple[list[float], str]:
    """The best thresholds whose mean cost is within the budget, and what is to be expected of them."""
    known = points(card)
    if not known:
        raise ClientError("the card knows no budgets; `dvt calibrate --model DIR --data SPEC --budget G` adds them")
    if not budget > 0:
        raise ClientError(f"the budget is {budget:g} GFLOPs; it must be above 0")
    within = [point for point in known if point[0] <= budget * (1 + 1e-6)]
    if not within:
        least = min(cost for cost, _, _ in known)
        return [0.0] * len(known[0][2]), f"the least that the card knows is {least:.3g} GFLOPs: all leave at exit 1"
    cost, right, thresholds = max(within, key=lambda point: (point[1], -point[0]))
    table = card.get("budgets", {"measure": "top1", "data": "the published evaluation"})
    return thresholds, f"on {table.get('data', 'held-out images')}: {table['measure']} {right:.3f} at {cost:.3g} GFLOPs"


def for_guarantee(card: Mapping[str, Any], number: int = 0) -> tuple[list[float], str]:
    """The thresholds that the card makes a promise about, and the promise.

    Without a number (from 1, as they stand in the card) it is the one in use, or else the only one there is.
    """
    own = card["thresholds"]
    promises = card.get("guarantees") or ([own] if "guarantee" in own else [])
    if not promises:
        raise ClientError(
            "the card makes no promise; `dvt calibrate --model DIR --data SPEC --max-disagreement P` does"
        )
    if number == 0 and "guarantee" in own:
        chosen = own
    elif number == 0 and len(promises) == 1:
        chosen = promises[0]
    elif 1 <= number <= len(promises):
        chosen = promises[number - 1]
    else:
        there = "; ".join(f"--guarantee {at}: {promise(entry)}" for at, entry in enumerate(promises, 1))
        raise ClientError(f"the promises of the card, of which one is to be chosen: {there}")
    return chosen["values"], promise(chosen)


def promise(entry: Mapping[str, Any]) -> str:
    """What is promised of an entry's thresholds."""
    made = entry["guarantee"]
    words = {
        "disagreement": "get another answer than the full cascade's",
        "accuracy_drop": "are answered wrongly where the full cascade is right",
    }[made["risk"]]
    level, confidence = 100 * made["level"], 100 * made["confidence"]
    return f"promised with {confidence:g} % confidence, about {made['about']}: at most {level:g} % {words}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 if every file was an image, 1 if not, 2 if something went wrong."""
    parser = argparse.ArgumentParser(description="Ask for answers at a mean cost, or under the model's promise.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG, BMP or GIF")
    parser.add_argument(
        "--card", type=Path, required=True, metavar="PATH", help="the exported version's folder, or its config.json"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--budget", type=float, metavar="G", help="at most this mean cost, in GFLOPs (multiply-adds)")
    how.add_argument(
        "--guarantee",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="thresholds that the card makes a promise about, which one where there are several",
    )
    parser.add_argument("--server", default="http://localhost:8501", metavar="URL", help="default %(default)s")
    parser.add_argument("--model", default="dvt", metavar="NAME", help="its name on the server; default %(default)s")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="images in a request; default %(default)s")
    given = parser.parse_args(arguments)
    try:
        card = read_card(given.card)
        if given.guarantee is None:
            thresholds, expected = for_budget(card, given.budget)
        else:
            thresholds, expected = for_guarantee(card, given.guarantee)
        images = read_files(given.files)
        print(f"thresholds {', '.join('never' if value > 1 else f'{value:.3g}' for value in thresholds)}; {expected}")
        # With the version in the address nobody sends a version thresholds that were chosen for another one.
        version = int(given.card.name) if given.card.is_dir() and given.card.name.isdecimal() else None
        url = model_url(given.server, given.model, version, None)
        answers: list[dict[str, Any]] = []
        for start in range(0, len(images), max(given.rows, 1)):
            answers += ask(url, images[start : start + max(given.rows, 1)], thresholds)
    except ClientError as error:
        print(f"choose_speed: {error}", file=sys.stderr)
        return 2
    all_valid = report(given.files, answers)
    costs = [answer["gmacs"] for answer in answers if answer["valid"]]
    if costs:
        print(f"mean cost of these {len(costs)}: {sum(costs) / len(costs):.3g} GFLOPs")
    return 0 if all_valid else 1


if __name__ == "__main__":
    sys.exit(main())

"""`dvt calibrate`: thresholds for a budget, or with a guarantee, into a model's card."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dvt_tf.commands import console, held_out

if TYPE_CHECKING:
    from dvt_tf.calibration import Calibration
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.results import ExitResults

METHOD = "exact"
CONFIDENCE = 0.95


def calibrate(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC[@SPLIT]",
            help="digits, shapes, folder:PATH, shards:PATH, tfds:NAME, or images:PATH for unlabelled ones; by default "
            "its calibration split.",
        ),
    ] = None,
    model: console.ModelOption = console.DEFAULT_MODEL,
    budget: Annotated[
        float | None, typer.Option(metavar="GFLOPS", help="The best accuracy at this mean cost of an image.")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="The least cost at which at most this share of images loses a right answer, guaranteed."
        ),
    ] = None,
    max_disagreement: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="The least cost at which at most this share of images gets another answer than the full cascade's, "
            "guaranteed. Needs no labels.",
        ),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(metavar="SHARE", help=f"Of a guarantee.  [default: {CONFIDENCE}]")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"For a budget: exact, evolutionary or published.  [default: {METHOD}]"),
    ] = None,
    pool: Annotated[
        bool,
        typer.Option(
            "--pool",
            help="For a guarantee, where several images are of one source (digit scenes of one handwriting): promise "
            "for new images of these sources alone, which takes fewer of them.",
        ),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Results that dvt evaluate --out kept, in place of --data: runs no model."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save the model with its new thresholds there, and leave it as it was."),
    ] = None,
) -> None:
    """Choose the thresholds of a model, and keep them in its card.

    For a budget, or as cheap as a guarantee allows: give one of --budget, --max-accuracy-drop and --max-disagreement.
    """
    risks = {"accuracy_drop": max_accuracy_drop, "disagreement": max_disagreement}
    wanted = [budget is not None, *(level is not None for level in risks.values())]
    if sum(wanted) != 1:
        raise ValueError("give one of --budget, --max-accuracy-drop and --max-disagreement")
    if budget is not None and (confidence is not None or pool):
        raise ValueError("--confidence and --pool belong to a guarantee, and --budget gives none")
    if budget is None and method is not None:
        raise ValueError("--method is for --budget; a guarantee has one method")
    if (data is None) == (results is None):
        raise ValueError("give either --data, what to calibrate on, or --results, what dvt evaluate --out kept")
    console.start_tensorflow()
    from dvt_tf import calibration, datasets
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.checkpoints import check_folder
    from dvt_tf.thresholds import METHODS
    from dvt_tf.thresholds.guarantee import check_share

    # What can be refused is refused before the model runs.
    if method is not None and method not in METHODS:
        raise ValueError(f"--method {method}: unknown; it can be {', '.join(METHODS)}")
    for name, level in risks.items():
        if level is not None:
            check_share(level, f"--max-{name.replace('_', '-')}")
    if confidence is not None:
        check_share(confidence, "--confidence")
    if budget is not None and not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"--budget {budget:g}: must be a number of GFLOPs above 0")
    if data is not None and max_disagreement is None and not datasets.is_labelled(data):
        raise ValueError(f"--data {data}: has no labels, and only --max-disagreement needs none")
    folder = _folder(model, out)
    if folder is not None:
        check_folder(folder)
    cascade = DynamicVisionTransformer.from_preset(model)
    calibration.check_several(cascade.num_exits)
    found_on = _results(cascade, data, results)
    if budget is not None:
        found = calibration.for_budget(found_on, budget, method or METHOD)
    else:
        risk, level = next((name, level) for name, level in risks.items() if level is not None)
        found = calibration.with_guarantee(
            found_on, risk, level, CONFIDENCE if confidence is None else confidence, pool
        )
    before = copy.deepcopy(cascade.card)
    cascade.card = calibration.calibrated(cascade.card, found, found_on)
    _print(cascade, before, found, found_on)
    if folder is None:
        print(console.printable(f"Not kept: {model} is bundled and stays as it is; --out DIR keeps a copy with these."))
    else:
        cascade.save_to_preset(folder)
        print(console.printable(f"Kept in {folder}."))


def _results(cascade: DynamicVisionTransformer, data: str | None, kept: Path | None) -> ExitResults:
    """The results to choose from; never those of images to train on or to score on."""
    from dvt_tf import datasets
    from dvt_tf.results import load_results

    if kept is not None:
        found = load_results(kept, cascade)
        _check_split(found.about.get("split", ""), f"--results {kept}")
        return found
    assert data is not None
    spec = datasets.parse_spec(data)
    split = spec.split or held_out.CALIBRATION
    _check_split(split, f"--data {data}")
    return held_out.run_exits(cascade, spec, split)


def _check_split(split: str, where: str) -> None:
    if split == "test":
        raise ValueError(f"{where}: the test split is for scoring what was chosen; calibrate on another one")
    if split == "train":
        raise ValueError(
            f"{where}: the model has learnt these images and is too sure of them; calibrate on held-out ones"
        )


def _print(cascade: DynamicVisionTransformer, before: dict, found: Calibration, results: ExitResults) -> None:
    from dvt_tf.exit_rule import format_thresholds

    expected, exits = found.expected, cascade.num_exits
    table = console.table("", *(f">leave at exit {k + 1}" for k in range(exits)), ">GFLOPs", ">of full", ">top-1")
    full = float(results.gmacs[-1])

    def row(name: str, values: dict) -> None:
        shares = [f"{share:.1%}" for share in values["exit_shares"]]
        top1 = f"{values['top1']:.1%}" if "top1" in values else "-"
        table.add_row(name, *shares, f"{values['gmacs']:.3g}", f"{values['gmacs'] / full:.0%}", top1)

    row("chosen", expected)
    last = {"exit_shares": [0.0] * (exits - 1) + [1.0], "gmacs": full}
    row("full cascade", last | ({"top1": expected["full_top1"]} if "full_top1" in expected else {}))
    values = format_thresholds(found.entry["values"])
    was = format_thresholds(before["thresholds"]["values"])
    images = found.entry.get("guarantee", found.entry)["images"]
    console.print_table(table, f"On {images:,} images of {results.where}. {console.GFLOPS_NOTE}")
    print(console.printable(f"Thresholds {values} (before: {was})."))
    for note in found.notes:
        print(console.printable(note))


def _folder(model: str, out: Path | None) -> Path | None:
    """Where the model is kept with its new thresholds; None for a bundled one, which stays as it is."""
    from dvt_tf.cascade import find_preset

    if out is not None:
        return out
    folder, preset = find_preset(model)
    return folder if preset is None else None

"""`dvt evaluate`: every exit alone, leaving early, and accuracy against mean cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dvt_tf.commands import console, held_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.results import ExitResults


def evaluate(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC[@SPLIT]",
            help="digits, shapes, folder:PATH, shards:PATH or tfds:NAME; by default its test split.",
        ),
    ] = None,
    model: console.ModelOption = console.DEFAULT_MODEL,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write figures, the results of every image, curves and plots there."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Take the results that an earlier --out kept, and run no model."),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A summary.json of another model on the same data, to plot as points."),
    ] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Fit a temperature to every exit, and say what it betters.")
    ] = False,
) -> None:
    """Score every exit alone, and leaving early by the model's own thresholds.

    With --out also the curves of accuracy against mean cost: thresholds of every method, chosen on the calibration
    split and scored on this one; and of digits and shapes, what the images are like that leave at each exit.
    """
    if (data is None) == (results is None):
        raise ValueError("give either --data, what to evaluate on, or --results, what an earlier --out kept")
    if beside and out is None:
        raise ValueError("--beside is for the plot: say where with --out")
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    console.start_tensorflow()
    from dvt_tf import difficulty, evaluation
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.results import save_results

    needs_both = out is not None or temperature
    if data is not None:
        spec, split = _checked(data, needs_both)
        others = evaluation.read_summaries(beside or (), f"{_body(data)}@{split}")
        cascade = DynamicVisionTransformer.from_preset(model)
        _refuse_chosen_on(cascade, f"{_body(data)}@{split}")
        scored = held_out.run_exits(cascade, spec, split)
        chosen_on = held_out.run_exits(cascade, spec, held_out.CALIBRATION) if needs_both else None
    else:
        assert results is not None
        cascade = DynamicVisionTransformer.from_preset(model)
        scored, chosen_on = _kept(results, cascade)
        others = evaluation.read_summaries(beside or (), scored.where)
        _refuse_chosen_on(cascade, scored.where)
    console.say_if_stale(cascade)
    temperatures = evaluation.temperatures_of(chosen_on) if temperature and chosen_on is not None else None
    summary = {"data": scored.where, **evaluation.summary(scored, cascade.card, temperatures)}
    if out is not None and chosen_on is not None:
        out.mkdir(parents=True, exist_ok=True)
        save_results(scored, out / "results.safetensors")
        save_results(chosen_on, out / "results_calibration.safetensors")
        _write_report(out, scored, chosen_on, cascade, others, temperatures)
        what_leaves = difficulty.summary(scored, cascade.card)
        more = {} if what_leaves is None else {"difficulty": what_leaves}
        evaluation.write_summary(out / "summary.json", {**summary, **more})
    _print(summary)


def _body(data: str) -> str:
    from dvt_tf import datasets

    return datasets.without_split(datasets.parse_spec(data))


def _checked(data: str, needs_both: bool) -> tuple[Any, str]:
    from dvt_tf import datasets

    spec = datasets.parse_spec(data)
    split = spec.split or "test"
    if needs_both and split == held_out.CALIBRATION:
        raise ValueError("--data: the curves' thresholds are chosen on the calibration split; score another one")
    if not datasets.is_labelled(spec):
        raise ValueError(f"--data {data}: has no labels, and a score needs them")
    return spec, split


def _refuse_chosen_on(cascade: DynamicVisionTransformer, where: str) -> None:
    """Refuses to score thresholds on the very images that they were chosen on."""
    if cascade.num_exits > 1 and cascade.card["thresholds"].get("data", "") == where:
        raise ValueError(f"the model's thresholds were chosen on {where}: score them on another split")


def _kept(folder: Path, cascade: DynamicVisionTransformer) -> tuple[ExitResults, ExitResults]:
    from dvt_tf.results import load_results

    if not folder.is_dir():
        raise FileNotFoundError(f"--results {folder}: no such folder")
    names = ("results.safetensors", "results_calibration.safetensors")
    scored, chosen_on = (load_results(folder / name, cascade) for name in names)
    return scored, chosen_on


def _write_report(
    out: Path,
    scored: ExitResults,
    chosen_on: ExitResults,
    cascade: DynamicVisionTransformer,
    others: Mapping[str, Mapping[str, Any]],
    temperatures: Sequence[float] | None,
) -> None:
    from dvt_tf import difficulty, evaluation, plots

    plots.plot_confidences(out / "confidences.png", scored, temperatures)
    if cascade.num_exits == 1:
        return
    scenes = difficulty.scenes_of(scored)
    if scenes is not None:
        thresholds, names = cascade.card["thresholds"]["values"], tuple(cascade.card["class_names"])
        difficulty.plot_difficulty(out / "difficulty.png", scored, thresholds, scenes)
        difficulty.plot_examples(out / "examples.png", scored, thresholds, scenes, names)
    curves = evaluation.all_curves(chosen_on, scored)
    evaluation.write_curves(out / "curve.csv", curves)
    plots.plot_curves(out / "curve.png", curves, scored, cascade.card, others)
    plots.plot_shares(out / "shares.png", curves)


def _print(summary: Mapping[str, Any]) -> None:
    from dvt_tf.exit_rule import format_thresholds

    adaptive = summary["adaptive"]
    scaled = "temperature" in summary["exits"][0]
    more = (">temperature", ">ECE with it") if scaled else ()
    table = console.table("exit", ">GFLOPs", ">top-1", ">top-5", ">leave here", ">ECE", *more)
    for k, (at, share) in enumerate(zip(summary["exits"], adaptive["exit_shares"], strict=True)):
        cells = [f"{k + 1}", f"{at['gmacs']:.3g}", f"{at['top1']:.1%}", f"{at['top5']:.1%}", f"{share:.1%}"]
        cells.append(f"{at['calibration_error']:.1%}")
        if scaled:
            cells += [f"{at['temperature']:.2f}", f"{at['calibration_error_scaled']:.1%}"]
        table.add_row(*cells)
    note = f"{summary['images']:,} images."
    if len(summary["exits"]) > 1:
        table.add_row("adaptive", f"{adaptive['gmacs']:.3g}", f"{adaptive['top1']:.1%}")
        own = format_thresholds(adaptive["thresholds"])
        note += f" Adaptive: thresholds {own}, {adaptive['share_of_full_cost']:.0%} of the full cost."
    note += " ECE is the expected calibration error."
    console.print_table(table, f"{note} {console.GFLOPS_NOTE}")

"""`dvt predict`: classify images, each by as much of the cascade as it needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from dvt_tf.commands import console

if TYPE_CHECKING:
    import numpy as np

    from dvt_tf.adaptive import AdaptiveClassifier


def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    model: console.ModelOption = console.DEFAULT_MODEL,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T",
            help="Confidence at which an image leaves early: 0 to 1, or never. Once for all exits, or once per exit "
            "but the last. By default the model's own.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="GFLOPS",
            help="In place of thresholds: the most accurate ones at this mean cost, of those that dvt calibrate kept.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Classify images, each by as much of the cascade as it needs."""
    from dvt_tf.exit_rule import format_thresholds, parse_threshold

    given = [parse_threshold(text) for text in threshold or ()]
    if given and budget is not None:
        raise ValueError("give either --threshold or --budget: a budget chooses the thresholds")
    console.start_tensorflow()
    faults: list[str] = []
    files = list(_expand(images, faults))
    predictions: list[dict[str, Any]] = []
    thresholds: Sequence[float] = ()
    if files:
        classifier = _classifier(model)
        thresholds = _thresholds(given, budget, classifier)
        predictions = list(_predict(files, classifier, thresholds, faults))
    if as_json:
        print(json.dumps(predictions, indent=1))
    elif predictions:
        source = "as given" if given else "the model's own" if budget is None else f"for {budget:.4g} GFLOPs"
        exits = f"{classifier.num_exits} exits, thresholds {format_thresholds(thresholds)} ({source})."
        console.print_table(_prediction_table(predictions, classifier.num_exits), f"{exits} {console.GFLOPS_NOTE}")
    for fault in faults:
        console.complain(fault)
    if faults:
        raise typer.Exit(console.BAD_INPUT)


def _classifier(model: str) -> AdaptiveClassifier:
    from dvt_tf.adaptive import AdaptiveClassifier

    return AdaptiveClassifier.from_preset(model)


def _thresholds(given: list[float], budget: float | None, classifier: AdaptiveClassifier) -> list[float]:
    """What the options say, once per exit but the last; by default the classifier's own."""
    from dvt_tf.calibration import thresholds_for_budget

    wanted = classifier.num_exits - 1
    if not given:
        console.say_if_stale(classifier.model)
    if budget is not None:
        values, note = thresholds_for_budget(classifier.card, classifier.gmacs, budget)
        if note:
            console.say(note)
        return values
    if not given:
        return [float(value) for value in classifier.thresholds]
    if len(given) == 1:
        return given * wanted
    if len(given) != wanted:
        raise ValueError(
            f"--threshold was given {len(given)} times: the model has {classifier.num_exits} exits, so give it once, "
            f"for all, or {wanted} times, once per exit but the last"
        )
    return given


def _expand(images: Iterable[str], faults: list[str]) -> Iterator[Path]:
    """The files that the arguments name; what is missing goes to `faults`."""
    from dvt_tf.image_files import ImageError, list_image_files

    for image in images:
        try:
            yield from list_image_files([image])
        except (FileNotFoundError, ImageError) as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{image}: cannot be read ({error.strerror or error})")


def _predict(
    files: list[Path], classifier: AdaptiveClassifier, thresholds: Sequence[float], faults: list[str]
) -> Iterator[dict[str, Any]]:
    """One dictionary per readable file, in order; the others go to `faults`."""
    import numpy as np

    from dvt_tf.image_files import ImageError, read_image_bytes
    from dvt_tf.preprocessing import preprocess

    for start in range(0, len(files), console.BATCH):
        contents: list[bytes] = []
        names: list[str] = []
        for path in files[start : start + console.BATCH]:
            try:
                contents.append(read_image_bytes(path))
                names.append(str(path))
            except (FileNotFoundError, ImageError) as error:
                faults.append(str(error))
        inputs, valid = preprocess(contents, classifier.card)
        faults += [f"{names[row]}: is a damaged image" for row in np.flatnonzero(~valid.numpy())]
        kept = np.flatnonzero(valid.numpy())
        result = classifier(inputs.numpy()[kept], thresholds)
        arrays = {key: value.numpy() for key, value in result.items()}
        for row, position in enumerate(kept):
            yield _prediction(names[position], row, arrays, classifier)


def _prediction(name: str, row: int, arrays: dict[str, np.ndarray], classifier: AdaptiveClassifier) -> dict[str, Any]:
    probabilities = arrays["probabilities"][row]
    class_names = classifier.card["class_names"]
    gmacs = float(arrays["gmacs"][row])
    return {
        "image": name,
        "label": class_names[int(probabilities.argmax())],
        "confidence": float(arrays["confidence"][row]),
        "exit": int(arrays["exit"][row]),
        "gmacs": gmacs,
        "share_of_full_cost": gmacs / float(classifier.gmacs[-1]),
        "probabilities": {class_name: float(value) for class_name, value in zip(class_names, probabilities)},
    }


def _prediction_table(predictions: list[dict[str, Any]], num_exits: int) -> Table:
    table = console.table("image", "label", ">confidence", "exit", ">GFLOPs", ">share of full cost")
    for prediction in predictions:
        table.add_row(
            Text(console.printable(prediction["image"]), overflow="fold"),
            Text(console.printable(prediction["label"])),
            f"{prediction['confidence']:.1%}",
            f"{prediction['exit']} of {num_exits}",
            f"{prediction['gmacs']:.3g}",
            f"{prediction['share_of_full_cost']:.0%}",
        )
    return table

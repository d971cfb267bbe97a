"""The `dvt` command. Bad input is one line on stderr, `dvt: ...`, and exit status 2; results alone go to stdout.

TensorFlow and all that needs it is imported inside the commands, so that `dvt --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# Before TensorFlow is first imported: what it logs would stand between the person and the one line meant for them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np

    from dvt_tf.adaptive import AdaptiveClassifier
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.datasets import DataSpec
    from dvt_tf.evaluation import ExitResults

DEFAULT_MODEL = "dvt_tiny_digits"
GFLOPS_NOTE = "GFLOPs are multiply-adds, as the paper counts."
# Short enough for 80 columns.
_PART_HEADINGS = {
    "embedding": "embed",
    "attention": "attn",
    "mlp": "MLP",
    "feature_reuse": "feat",
    "relationship_reuse": "rel",
    "head": "head",
}
_MACS_NOTE = (
    "GFLOPs of each exit's Transformer: embedding, attention, MLP, reuse of features and of relationships, head; "
    "and in all to leave there."
)
_BATCH = 64  # images read and classified at once
_BAD_INPUT = 2  # exit status

# Typer carries its own copy of click in newer releases, so the class is found from one that Typer names.
_CLICK_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Dynamic Vision Transformers: classify images with no more tokens than each one needs.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dvt` with these arguments (by default the process's own) and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result = typer.main.get_command(app).main(arguments, prog_name="dvt", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except _CLICK_ERROR as error:
        context = getattr(error, "ctx", None)
        return _complain(f"{error.format_message()} (see {context.command_path if context else 'dvt'} --help)")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except ValueError as error:  # ImageError and every refusal of the library
        return _complain(str(error))
    except Exception as error:
        message = _damaged_data_message(error)
        if message is None:
            raise
        return _complain(message)


@app.callback()
def _dvt() -> None:
    """Dynamic Vision Transformers: classify images with no more tokens than each one needs."""


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    model: Annotated[
        str, typer.Option(metavar="DIR|PRESET", help="A model folder, or a preset whose weights are bundled.")
    ] = DEFAULT_MODEL,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T",
            help="Confidence at which an image leaves early: 0 to 1, or never. Once for all exits, or once per exit "
            "but the last. By default the model's own.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Classify images, each by as much of the cascade as it needs."""
    from dvt_tf.exit_rule import format_thresholds, parse_threshold

    given = [parse_threshold(text) for text in threshold or ()]
    _start_tensorflow()
    faults: list[str] = []
    files = list(_expand(images, faults))
    predictions: list[dict[str, Any]] = []
    thresholds: Sequence[float] = ()
    if files:
        classifier = _classifier(model)
        thresholds = _thresholds(given, classifier)
        predictions = list(_predict(files, classifier, thresholds, faults))
    if as_json:
        print(json.dumps(predictions, indent=1))
    elif predictions:
        source = "as given" if given else "the model's own"
        exits = f"{classifier.num_exits} exits, thresholds {format_thresholds(thresholds)} ({source})."
        _print_table(_prediction_table(predictions, classifier.num_exits), f"{exits} {GFLOPS_NOTE}")
    for fault in faults:
        _complain(fault)
    if faults:
        raise typer.Exit(_BAD_INPUT)


@app.command()
def presets(
    macs: Annotated[bool, typer.Option("--macs", help="Also say what each part of each Transformer costs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the named cascades: size, token grids, cost per exit."""
    _start_tensorflow()
    from dvt_tf.cascade import PRETRAINED
    from dvt_tf.checkpoints import CARD_FILE
    from dvt_tf.cost import count_macs, count_parameters, itemise_macs
    from dvt_tf.presets import PRESETS

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "parameters": int(count_parameters(preset.config)),
            "image_size": preset.config.image_size,
            "token_grids": list(preset.config.token_grids),
            "num_classes": preset.config.num_classes,
            "gmacs": [total / 1e9 for total in count_macs(preset.config)],
            "weights_bundled": (PRETRAINED / name / CARD_FILE).is_file(),
            "description": preset.description,
        }
        for name, preset in PRESETS.items()
    ]
    if macs:
        for row in rows:
            row["macs"] = itemise_macs(PRESETS[row["name"]].config)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = _table("preset", ">weights", ">pixels", "token grids", "GFLOPs at each exit", "from", "description")
    for row in rows:
        table.add_row(
            Text(row["name"]),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['image_size']}",
            ", ".join(f"{grid}x{grid}" for grid in row["token_grids"]),
            ", ".join(f"{gmacs:.3g}" for gmacs in row["gmacs"]),
            "bundled" if row["weights_bundled"] else "convert",
            Text(row["description"]),
        )
    table.columns[0].no_wrap = True
    _print_table(table, f"Weights are bundled, or come from `dvt convert`. {GFLOPS_NOTE}")
    if macs:
        print()
        _print_table(_macs_table(rows), _MACS_NOTE)


@app.command()
def evaluate(
    data: Annotated[
        str,
        typer.Option(
            metavar="SPEC[@SPLIT]", help="digits, folder:PATH, shards:PATH or tfds:NAME; by default its test split."
        ),
    ],
    model: Annotated[
        str, typer.Option(metavar="DIR|PRESET", help="A model folder, or a preset whose weights are bundled.")
    ] = DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write summary.json, curve.csv and curve.png there.")
    ] = None,
) -> None:
    """Score every exit alone, and leaving early by the model's own thresholds.

    With --out also the budgeted curve: thresholds by the published rule on the calibration split, scored on this one.
    """
    _start_tensorflow()
    from dvt_tf import datasets, evaluation
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.exit_rule import format_thresholds

    spec = datasets.parse_spec(data)
    split = spec.split or "test"
    if out is not None:
        if split == "calibration":
            raise ValueError("--data: the curve's thresholds are chosen on the calibration split; score another one")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; give a folder")
    cascade = DynamicVisionTransformer.from_preset(model)
    results = _exit_results(cascade, spec, split)
    summary = evaluation.summary(results, cascade.card)
    if out is not None:
        chosen_on = _exit_results(cascade, spec, "calibration")
        curve = evaluation.budgeted_curve(chosen_on, results)
        out.mkdir(parents=True, exist_ok=True)
        evaluation.write_curve(out / "curve.csv", curve)
        evaluation.plot_curve(out / "curve.png", curve, results, cascade.card)
        evaluation.write_summary(out / "summary.json", {"data": f"{data} ({split})", **summary})
    table = _table("exit", ">GFLOPs", ">top-1", ">top-5", ">leave here")
    adaptive = summary["adaptive"]
    for k, (at, share) in enumerate(zip(summary["exits"], adaptive["exit_shares"], strict=True)):
        table.add_row(f"{k + 1}", f"{at['gmacs']:.3g}", f"{at['top1']:.1%}", f"{at['top5']:.1%}", f"{share:.1%}")
    table.add_row("adaptive", f"{adaptive['gmacs']:.3g}", f"{adaptive['top1']:.1%}", "", "")
    own = format_thresholds(adaptive["thresholds"])
    share = f"{adaptive['share_of_full_cost']:.0%} of the full cost"
    _print_table(table, f"{summary['images']:,} images; adaptive: thresholds {own}, {share}. {GFLOPS_NOTE}")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A PyTorch file: .pth.tar, .pth or .pt.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help="The architecture; `dvt presets` lists them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Write the model folder there.")],
    weights: Annotated[
        str | None,
        typer.Option(metavar="ema|raw", help="Which, where a training kept both; by default the shadow weights (EMA)."),
    ] = None,
    token_grid: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens a side of a single Transformer, if not the preset's.")
    ] = None,
) -> None:
    """Turn a published PyTorch checkpoint into a model folder (needs PyTorch).

    A single Transformer's checkpoint, given for a cascade, makes a starting point for training.
    """
    _start_tensorflow()
    from dvt_tf.convert import START
    from dvt_tf.convert import convert as convert_file
    from dvt_tf.cost import count_macs
    from dvt_tf.exit_rule import format_thresholds

    done = convert_file(checkpoint, preset, out, weights, token_grid)
    model, card = done.model, done.model.card
    kind = ", EMA weights" if done.checkpoint.weights == "ema" else ""
    entry = f"{done.checkpoint.entry or 'the weights alone'}{kind}"
    print(_printable(f"{checkpoint} ({entry}) -> {out}: {preset}, {model.count_params():,} weights"))
    published = card.get("published", {})
    columns = {">published": [f"{gflops:.3g}" for gflops in published.get("gflops", ())]}
    columns[">published top-1"] = [f"{top1:.2f}%" for top1 in published.get("top1", ())]
    columns = {heading: cells for heading, cells in columns.items() if cells}
    table = _table("exit", "tokens", ">GFLOPs", *columns)
    for k, macs in enumerate(count_macs(model)):
        grid = model.config.token_grids[k]
        table.add_row(f"{k + 1}", f"{grid}x{grid}", f"{macs / 1e9:.3g}", *(cells[k] for cells in columns.values()))
    if done.is_start:
        note = f"This is {START}."
    elif model.num_exits > 1:
        thresholds = card["thresholds"]
        note = f"Thresholds {format_thresholds(thresholds['values'])} ({thresholds['method']})."
    else:
        note = ""
    _print_table(table, f"{note} {GFLOPS_NOTE}".strip())


def _exit_results(cascade: DynamicVisionTransformer, spec: DataSpec, split: str) -> ExitResults:
    """Every exit on one split, with a progress bar on stderr."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from dvt_tf import datasets, evaluation

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f} images"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(split, total=None)
        batches = datasets.load(spec, split, cascade.card, batch_size=_BATCH)
        return evaluation.exit_results(cascade, batches, on_batch=lambda count: progress.advance(task, count))


def _start_tensorflow() -> None:
    """Import TensorFlow in silence. Its newer releases log to file descriptor 2 while they load, whatever the level."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    tf.get_logger().setLevel("ERROR")


def _classifier(model: str) -> AdaptiveClassifier:
    from dvt_tf.adaptive import AdaptiveClassifier

    return AdaptiveClassifier.from_preset(model)


def _thresholds(given: list[float], classifier: AdaptiveClassifier) -> list[float]:
    """What the options say, once per exit but the last; by default the classifier's own."""
    wanted = classifier.num_exits - 1
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

    for start in range(0, len(files), _BATCH):
        contents: list[bytes] = []
        names: list[str] = []
        for path in files[start : start + _BATCH]:
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
    table = _table("image", "label", ">confidence", "exit", ">GFLOPs", ">share of full cost")
    for prediction in predictions:
        table.add_row(
            Text(_printable(prediction["image"]), overflow="fold"),
            Text(_printable(prediction["label"])),
            f"{prediction['confidence']:.1%}",
            f"{prediction['exit']} of {num_exits}",
            f"{prediction['gmacs']:.3g}",
            f"{prediction['share_of_full_cost']:.0%}",
        )
    return table


def _macs_table(rows: list[dict[str, Any]]) -> Table:
    """What each part of each Transformer costs, of the rows of `dvt presets --macs`."""
    table = _table("preset", "tokens", *(f">{heading}" for heading in _PART_HEADINGS.values()), ">in all")
    for row in rows:
        for k, (grid, items, total) in enumerate(zip(row["token_grids"], row["macs"], row["gmacs"], strict=True)):
            each = [f"{items[part] / 1e9:.4f}" if items[part] else "-" for part in _PART_HEADINGS]
            table.add_row(Text(row["name"] if not k else ""), f"{grid}x{grid}", *each, f"{total:.4f}")
    for column in table.columns:
        column.no_wrap = True
    return table


def _table(*columns: str) -> Table:
    """A table with these headings; one that starts with > is for numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def _print_table(table: Table, note: str) -> None:
    # In a pipe there is no width to keep to, and a name cut short would be of no use there.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=10_000)
    console.print(table)
    console.print(Text(note, style="dim"))


def _damaged_data_message(error: Exception) -> str | None:
    """The one error of TensorFlow's that is bad input: a damaged image met while data is read."""
    from dvt_tf.datasets import damaged_image_message

    return damaged_image_message(error)


def _complain(message: str) -> int:
    print(f"dvt: {_printable(' '.join(message.split()))}", file=sys.stderr)
    return _BAD_INPUT


def _printable(text: str) -> str:
    """On one line, whatever a file is called."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


if __name__ == "__main__":
    sys.exit(main())

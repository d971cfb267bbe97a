"""`dvt export`: a model to a SavedModel for TensorFlow Serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvt_tf.commands import console


def export(
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR/NAME", help="The folder that the server watches: the model's versions are folders in it."
        ),
    ],
    model: console.ModelOption = console.DEFAULT_MODEL,
    version: Annotated[
        int | None, typer.Option(metavar="N", help="By default one more than the highest that is there.")
    ] = None,
) -> None:
    """Write a SavedModel for TensorFlow Serving, whole or not at all: image files in, answers out.

    Its thresholds are the model's own; its signature with_thresholds takes others with every image.
    """
    console.start_tensorflow()
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.cost import count_macs
    from dvt_tf.exit_rule import format_thresholds
    from dvt_tf.serving import check_place
    from dvt_tf.serving import export as export_model

    check_place(out, version)
    cascade = DynamicVisionTransformer.from_preset(model)
    console.say_if_stale(cascade)
    written = export_model(cascade, out, version)
    megabytes = sum(path.stat().st_size for path in written.rglob("*") if path.is_file()) / 1e6
    table = console.table("exit", ">GFLOPs", ">threshold")
    values = [*(format_thresholds([value]) for value in cascade.card["thresholds"]["values"]), "the rest"]
    for k, (macs, threshold) in enumerate(zip(count_macs(cascade), values, strict=True)):
        table.add_row(f"{k + 1}", f"{macs / 1e9:.3g}", threshold)
    print(console.printable(f"{written} ({megabytes:.1f} MB): serving_default, with_thresholds, pixels"))
    console.print_table(table, console.GFLOPS_NOTE)

"""`dvt convert`: a published PyTorch checkpoint to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvt_tf.commands import console


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
    console.start_tensorflow()
    from dvt_tf.convert import START
    from dvt_tf.convert import convert as convert_file
    from dvt_tf.cost import count_macs
    from dvt_tf.exit_rule import format_thresholds

    done = convert_file(checkpoint, preset, out, weights, token_grid)
    model, card = done.model, done.model.card
    kind = ", EMA weights" if done.checkpoint.weights == "ema" else ""
    entry = f"{done.checkpoint.entry or 'the weights alone'}{kind}"
    print(console.printable(f"{checkpoint} ({entry}) -> {out}: {preset}, {model.count_params():,} weights"))
    published = card.get("published", {})
    columns = {">published": [f"{gflops:.3g}" for gflops in published.get("gflops", ())]}
    columns[">published top-1"] = [f"{top1:.2f}%" for top1 in published.get("top1", ())]
    columns = {heading: cells for heading, cells in columns.items() if cells}
    table = console.table("exit", "tokens", ">GFLOPs", *columns)
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
    console.print_table(table, f"{note} {console.GFLOPS_NOTE}".strip())

"""`dvt presets`: the named cascades."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from dvt_tf.commands import console

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


def presets(
    macs: Annotated[bool, typer.Option("--macs", help="Also say what each part of each Transformer costs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the named cascades: size, token grids, cost per exit."""
    console.start_tensorflow()
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
            "recipe": preset.recipe,
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
    table = console.table("preset", ">weights", ">pixels", "token grids", "GFLOPs at each exit", "from", "description")
    for row in rows:
        table.add_row(
            Text(row["name"]),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['image_size']}",
            ", ".join(f"{grid}x{grid}" for grid in row["token_grids"]),
            ", ".join(f"{gmacs:.3g}" for gmacs in row["gmacs"]),
            "bundled" if row["weights_bundled"] else "training" if row["recipe"] else "convert",
            Text(row["description"]),
        )
    table.columns[0].no_wrap = True
    console.print_table(
        table, f"Weights are bundled, or come from `dvt convert` or from training. {console.GFLOPS_NOTE}"
    )
    if macs:
        print()
        console.print_table(_macs_table(rows), _MACS_NOTE)


def _macs_table(rows: list[dict[str, Any]]) -> Table:
    """What each part of each Transformer costs, of the rows of `dvt presets --macs`."""
    table = console.table("preset", "tokens", *(f">{heading}" for heading in _PART_HEADINGS.values()), ">in all")
    for row in rows:
        for k, (grid, items, total) in enumerate(zip(row["token_grids"], row["macs"], row["gmacs"], strict=True)):
            each = [f"{items[part] / 1e9:.4f}" if items[part] else "-" for part in _PART_HEADINGS]
            table.add_row(Text(row["name"] if not k else ""), f"{grid}x{grid}", *each, f"{total:.4f}")
    for column in table.columns:
        column.no_wrap = True
    return table

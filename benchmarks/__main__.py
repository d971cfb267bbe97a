"""`python -m benchmarks`: all of them one after another, in one report; `make bench`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dvt_tf.files import written_whole

LARGE = ("dvt_t2t_vit_12", "dvt_deit_small")
SMALL = "dvt_tiny_digits"
RESULTS = Path(__file__).parents[1] / "docs" / "results"
STATIC = [os.path.relpath(path) for path in sorted(RESULTS.glob("digits_static_*_card.json"))]
# Name of the folder of the tables, and the command.
ALL: dict[str, list[str]] = {
    **{f"inference_{model}": ["inference", "--model", model] for model in (*LARGE, SMALL)},
    **{
        f"early_exit_{model}": ["early_exit", "--model", model, "--batch", "1", "--batch", "32", "--rounds", "5"]
        for model in (LARGE[0], SMALL)
    },
    **{f"baseline_{model}": ["baseline", "--model", model, "--rounds", "5"] for model in (LARGE[0], SMALL)},
    **{f"memory_{model}": ["memory", "--model", model] for model in LARGE},
    "training": ["training", "--model", SMALL, "--precision", "float32", "--batch", "32", "--no-memory"],
    "throughput": ["throughput", "--images", "512", *(part for path in STATIC for part in ("--static", path))],
    "agreement": ["agreement"],
    "solvers": ["solvers"],
}
REPORT = "README.md"


def main(
    out: Annotated[Path, typer.Option(help="A folder for the report, its tables and plots.")] = Path("runs/bench"),
    only: Annotated[list[str] | None, typer.Option(help=f"Some of {', '.join(ALL)}. [default: all]")] = None,
) -> None:
    """Run every benchmark in a process of its own, and join what they found in OUT/README.md."""
    unknown = sorted(set(only or ()) - set(ALL))
    if unknown:
        raise typer.BadParameter(f"there is no {', '.join(unknown)}; there are {', '.join(ALL)}")
    parts = ["# What things cost here", "Made by `python -m benchmarks`."]
    begun = time.monotonic()
    for number, name in enumerate(only or ALL):
        print(f"\n[{number + 1}/{len(only or ALL)}, {(time.monotonic() - begun) / 60:.0f} min] {name}", flush=True)
        module, *arguments = ALL[name]
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments, "--out", out / name], check=True)
        parts.append(f"`python -m benchmarks.{' '.join([module, *arguments])}`")
        parts.append((out / name / f"{module}.md").read_text(encoding="utf-8").strip())
        parts += [f"![{plot.stem}]({name}/{plot.name})" for plot in sorted((out / name).glob("*.png"))]
    with written_whole(out / REPORT) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"\n{out / REPORT}, after {(time.monotonic() - begun) / 60:.0f} minutes")


if __name__ == "__main__":
    typer.run(main)

"""`python -m benchmarks.inference`: what the folded inference form gains, against the plain layers and the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import interleaved, machine, matmul, rate
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs

ROOFLINES = {"float32": tf.float32, "bfloat16": tf.bfloat16}


def main(
    model: Annotated[str, typer.Option(help="A preset, untrained: time does not depend on the weights.")],
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Images at once. [default: 1, 32]")] = None,
    rounds: Annotated[int, typer.Option(help="Of which the medians count.")] = 5,
) -> None:
    """Time every exit of a cascade as plain layers, folded, and folded with bfloat16 matmuls, in the same rounds.

    The roofline is a square float32 matmul timed in these rounds; a share of it is what the arithmetic of an exit would
    take at its rate, over what the exit took.
    """
    cascade = DynamicVisionTransformer.from_preset(model, load_weights=False)
    forms: dict[str, Any] = {"plain": cascade, **{name: cascade.optimized(name) for name in ROOFLINES}}
    macs, exits, size = count_macs(cascade), cascade.num_exits, cascade.config.image_size
    console = Console(highlight=False)
    console.print(f"{model}; {machine()}; medians of {rounds} interleaved rounds")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("batch", "exit", "plain, ms an image", "folded / plain", "bfloat16 / folded", "share of roofline"):
        table.add_column(heading, justify="right")
    for batch in batches or (1, 32):
        images = tf.random.stateless_normal((batch, size, size, 3), (1, 2))
        runs: dict[Any, Callable[[], tf.Tensor]] = {
            (name, k): _exit(form, k, images) for name, form in forms.items() for k in range(exits)
        }
        seconds = interleaved({**runs, "roofline": matmul(tf.float32)}, rounds)
        for k in range(exits):
            plain, folded, half = (seconds[name, k] for name in forms)
            table.add_row(
                f"{batch}",
                f"{k + 1}",
                f"{1000 * plain / batch:.1f}",
                f"{folded / plain:.2f}",
                f"{half / folded:.2f}",
                f"{macs[k] * batch / folded / rate(seconds['roofline']):.0%}",
            )
    console.print(table)
    rates = interleaved({name: matmul(dtype) for name, dtype in ROOFLINES.items()}, rounds)
    console.print(f"A square bfloat16 matmul takes {rates['bfloat16'] / rates['float32']:.2f} of a float32 one.")


def _exit(form: Any, last: int, images: tf.Tensor) -> Callable[[], tf.Tensor]:
    """The logits of exit `last` (0-based), as a graph over batches of any size."""

    def run(images: tf.Tensor) -> tf.Tensor:
        outputs = None
        for transformer in form.transformers[: last + 1]:
            outputs = transformer(images, upstream=outputs)
        assert outputs is not None
        return outputs.logits

    spec = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    graph = tf.function(run, input_signature=[spec], autograph=False)
    return lambda: graph(images)


if __name__ == "__main__":
    typer.run(main)

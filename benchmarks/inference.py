"""`python -m benchmarks.inference`: what the folded inference form gains, against layers and machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import typer

from benchmarks.measure import interleaved, load, matmul, share_of_roofline
from benchmarks.report import Out, Report
from dvt_tf.cost import count_macs

PRECISIONS = {"float32": tf.float32, "bfloat16": tf.bfloat16}


def main(
    model: Annotated[str, typer.Option(help="A model folder or a preset; an untrained one takes as long.")],
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Images at once. [default: 1, 32]")] = None,
    rounds: Annotated[int, typer.Option(help="Of which the medians count.")] = 5,
    out: Out = None,
) -> None:
    """Time every exit of a cascade as plain layers, folded, and folded with bfloat16 matmuls, in the same rounds.

    The roofline is a square float32 matmul timed in these rounds; a share of it is what the arithmetic of an exit would
    take at its rate, over what the exit took. Ratios are medians over the rounds, with the lowest and highest.
    """
    cascade = load(model)
    forms: dict[str, Any] = {"layers": cascade, **{name: cascade.optimized(name) for name in PRECISIONS}}
    macs, exits, size = count_macs(cascade), cascade.num_exits, cascade.config.image_size
    report = Report("inference", f"{model}: every exit, folded; {rounds} interleaved rounds", out)
    rows = []
    for batch in batches or (1, 32):
        images = tf.random.stateless_normal((batch, size, size, 3), (1, 2))
        runs: dict[Any, Callable[[], tf.Tensor]] = {
            (name, k): up_to_exit(form, k, images) for name, form in forms.items() for k in range(exits)
        }
        found = interleaved({**runs, "roofline": matmul(tf.float32)}, rounds)
        for k in range(exits):
            layers, folded, half = (found[name, k] for name in forms)
            rows.append(
                [
                    f"{batch}",
                    f"{k + 1}",
                    f"{1000 * folded.middle.median / batch:.1f}",
                    folded.over(layers).show(),
                    half.over(folded).show(),
                    share_of_roofline(macs[k] * batch, folded, found["roofline"]).show("{:.0%}"),
                ]
            )
    headings = ("batch", "exit", "folded, ms an image", "folded / layers", "bfloat16 / folded", "share of roofline")
    report.table(headings, rows)
    rates = interleaved({name: matmul(dtype) for name, dtype in PRECISIONS.items()}, rounds)
    ratio = rates["bfloat16"].over(rates["float32"]).show()
    report.say(f"A square bfloat16 matmul takes {ratio} of a float32 one.")
    report.close()


def up_to_exit(form: Any, last: int, images: tf.Tensor) -> Callable[[], tf.Tensor]:
    """The logits of exit `last` (0-based) for these images; see `exit_graph`."""
    graph = exit_graph(form, last)
    return lambda: graph(images)


def exit_graph(form: Any, last: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Images to the logits of exit `last` (0-based) of a cascade or its folded form, for batches of any size."""

    def run(images: tf.Tensor) -> tf.Tensor:
        outputs = None
        for transformer in form.transformers[: last + 1]:
            outputs = transformer(images, upstream=outputs)
        assert outputs is not None
        return outputs.logits

    size = form.config.image_size
    spec = tf.TensorSpec((None, size, size, 3), tf.float32)
    return tf.function(run, input_signature=[spec], autograph=False).get_concrete_function()


if __name__ == "__main__":
    typer.run(main)

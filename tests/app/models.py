"""Cascades for the tests of the page: random weights, and a card that names the classes."""

from collections.abc import Sequence

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs
from dvt_tf.exit_rule import NEVER
from tests.cascades import small_cascade

DIGITS = [str(digit) for digit in range(10)]
PETS = ["cat", "dog"]


def page_model(
    grids: tuple[int, ...], class_names: Sequence[str], thresholds: Sequence[float] = (), image_size: int = 28
) -> DynamicVisionTransformer:
    """A cascade of a few thousand weights with these grids and classes; never leaves early unless told."""
    model = small_cascade(token_grids=grids, num_classes=len(class_names), image_size=image_size)
    values = list(thresholds) or [2.0] * (len(grids) - 1)
    chosen = {"values": values, "method": "none", "data": ""}
    model.card = {**model.card, "class_names": list(class_names), "thresholds": chosen}
    return model


def with_budgets(model: DynamicVisionTransformer, measure: str = "top1") -> DynamicVisionTransformer:
    """The model, its card with thresholds for four budgets: the first exit alone, a little more, halfway, all."""
    gmacs = [macs / 1e9 for macs in count_macs(model)]
    early = 2 if model.num_exits > 2 else 1  # of these thresholds, so many differ
    known = [(0.0, 0.6, [0.0, 0.0]), (0.02, 0.75, [0.8, 0.6]), (0.5, 0.885, [0.9, 0.84]), (1.0, 0.91, [NEVER, NEVER])]
    points = [
        {
            "gmacs": gmacs[0] + part * (gmacs[-1] - gmacs[0]),
            measure: reached,
            "thresholds": values[:early] + values[-1:] * (model.num_exits - 1 - early),
        }
        for part, reached, values in known
    ]
    table = {"points": points, "measure": measure, "method": "exact: the best", "data": "digits@val", "images": 2000}
    model.card = {**model.card, "budgets": {**table, "weights": ""}}
    return model


def digits_model() -> DynamicVisionTransformer:
    """Ten digits, three exits, 112 pixels, as the bundled model; its card asks for 0.6 and then 0.4."""
    return page_model((7, 10, 14), DIGITS, (0.6, 0.4), image_size=112)

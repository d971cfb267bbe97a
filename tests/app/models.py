"""Cascades for the tests of the page: random weights, and a card that names the classes."""

from collections.abc import Sequence

from dvt_tf.cascade import DynamicVisionTransformer
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


def digits_model() -> DynamicVisionTransformer:
    """Ten digits, three exits, 112 pixels, as the bundled model; its card asks for 0.6 and then 0.4."""
    return page_model((7, 10, 14), DIGITS, (0.6, 0.4), image_size=112)

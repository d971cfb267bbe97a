"""RandAugment (Cubuk et al., 2019, arXiv 1909.13719) as the published recipes mean it: `rand-m9-mstd0.5-inc1`."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import tensorflow as tf

from training import image_operations as operations
from training.draws import chance, normal, sub_seed, whole_number

NAMES = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"),
)
MAX_LEVEL = 10.0
PROBABILITY = 0.5  # that an operation which was drawn is applied
NOTHING = len(NAMES)  # in place of an operation's index: the picture stays as it is
_FORM = "it is rand-mM[-mstdS][-inc0|-inc1][-nN] with M from 0 to 10 and N at least 1, as in rand-m9-mstd0.5-inc1"
_PART = re.compile(r"(mstd|m|inc|n)(\d+(?:\.\d+)?)")
_APPLIED, _WHICH, _LEVEL, _NEGATIVE, _BICUBIC = range(5)  # what a draw is for


class Policy(NamedTuple):
    """A parsed spec.

    magnitude: mean of the operations' levels, 0 to 10. deviation: their standard deviation. increasing: whether every
    operation gets stronger with its level, or some by other ranges. operations: how many are drawn for a picture.
    """

    magnitude: float
    deviation: float = 0.0
    increasing: bool = False
    operations: int = 2


class Drawn(NamedTuple):
    """One step of RandAugment, scalars.

    which: int32, index of the operation among `NAMES`, or `NOTHING`. level: float64, 0 to 10. negative, bicubic: bool,
    for the operations that have a direction or move pixels.
    """

    which: tf.Tensor
    level: tf.Tensor
    negative: tf.Tensor
    bicubic: tf.Tensor


class Arguments(NamedTuple):
    """What the operations take at one level, scalars.

    degrees: float64. bits: int32. threshold, amount: int32, grey levels. factor: float64, of a blend. shear: float64,
    pixels per pixel. share: float64, of the picture's side.
    """

    degrees: tf.Tensor
    bits: tf.Tensor
    threshold: tf.Tensor
    amount: tf.Tensor
    factor: tf.Tensor
    shear: tf.Tensor
    share: tf.Tensor


def parse_policy(spec: str) -> Policy:
    """Parse `rand-m9-mstd0.5-inc1` and the like: m magnitude, mstd deviation, inc increasing, n operations.

    Raises:
        ValueError: anything else; the message says what a spec looks like.
    """
    first, *parts = spec.split("-")
    matches = [_PART.fullmatch(part) for part in parts]
    values = {match[1]: match[2] for match in matches if match}
    fault = f"RandAugment {spec!r} is not understood; {_FORM}"
    if first != "rand" or "m" not in values or len(values) != len(parts):
        raise ValueError(fault)
    whole = {name: values.get(name, default) for name, default in (("inc", "0"), ("n", "2"))}
    if whole["inc"] not in ("0", "1") or not whole["n"].isdecimal() or int(whole["n"]) < 1:
        raise ValueError(fault)
    policy = Policy(float(values["m"]), float(values.get("mstd", 0)), whole["inc"] == "1", int(whole["n"]))
    if policy.magnitude > MAX_LEVEL:
        raise ValueError(fault)
    return policy


def randaugment(
    pixels: tf.Tensor,
    seed: tf.Tensor,
    policy: Policy,
    fill: tuple[int, int, int],
    interpolation: str = "random",
) -> tf.Tensor:
    """A picture after the operations drawn for it, one after another.

    Args:
        pixels: uint8 (H, W, 3). seed: int32 (2,). policy: see `parse_policy`.
        fill: the colour of what comes into the picture from outside.
        interpolation: of the operations that move pixels: `bilinear`, `bicubic`, or `random` for one of them, drawn.

    Returns:
        uint8 (H, W, 3).
    """
    size = pixels.shape
    for number in range(policy.operations):
        drawn = draw_operation(sub_seed(seed, number), policy, interpolation)
        pixels = _step(policy.increasing, fill)(pixels, *drawn)
    return tf.ensure_shape(pixels, size)


def draw_operation(seed: tf.Tensor, policy: Policy, interpolation: str) -> Drawn:
    """One operation: each of `NAMES` as likely, applied or not, at a level from a normal distribution cut to 0..10."""
    which = tf.cast(whole_number(sub_seed(seed, _WHICH), len(NAMES)), tf.int32)
    level = policy.magnitude + policy.deviation * normal(sub_seed(seed, _LEVEL))
    return Drawn(
        which=tf.where(chance(sub_seed(seed, _APPLIED), PROBABILITY), which, NOTHING),
        level=tf.clip_by_value(level, 0.0, MAX_LEVEL),
        negative=chance(sub_seed(seed, _NEGATIVE), 0.5),
        bicubic=chance(sub_seed(seed, _BICUBIC), {"bilinear": 0.0, "bicubic": 1.0, "random": 0.5}[interpolation]),
    )


def arguments(level: tf.Tensor, negative: tf.Tensor, increasing: bool) -> Arguments:
    """What the operations take at a level, float64 () from 0 to 10; those with a direction take it from `negative`."""
    strength = tf.cast(level, tf.float64) / MAX_LEVEL
    signed = tf.where(negative, -strength, strength)
    bits, threshold = (tf.cast(strength * top, tf.int32) for top in (4, 256))
    return Arguments(
        degrees=signed * 30,
        bits=4 - bits if increasing else bits,
        threshold=256 - threshold if increasing else threshold,
        amount=tf.cast(strength * 110, tf.int32),
        factor=1.0 + signed * 0.9 if increasing else 0.1 + strength * 1.8,
        shear=signed * 0.3,
        share=signed * 0.45,
    )


@functools.lru_cache(maxsize=16)
def _step(increasing: bool, fill: tuple[int, int, int]) -> Any:
    """One step as a function of (pixels, *drawn), traced once however often it is used."""
    scalars = [tf.TensorSpec([], dtype) for dtype in (tf.int32, tf.float64, tf.bool, tf.bool)]

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), *scalars], autograph=False)
    def step(
        pixels: tf.Tensor, which: tf.Tensor, level: tf.Tensor, negative: tf.Tensor, bicubic: tf.Tensor
    ) -> tf.Tensor:
        taken = arguments(level, negative, increasing)
        branches = {
            "AutoContrast": lambda: operations.autocontrast(pixels),
            "Equalize": lambda: operations.equalize(pixels),
            "Invert": lambda: operations.invert(pixels),
            "Rotate": lambda: operations.rotate(pixels, taken.degrees, fill, bicubic),
            "Posterize": lambda: operations.posterize(pixels, taken.bits),
            "Solarize": lambda: operations.solarize(pixels, taken.threshold),
            "SolarizeAdd": lambda: operations.solarize_add(pixels, taken.amount),
            "Color": lambda: operations.color(pixels, taken.factor),
            "Contrast": lambda: operations.contrast(pixels, taken.factor),
            "Brightness": lambda: operations.brightness(pixels, taken.factor),
            "Sharpness": lambda: operations.sharpness(pixels, taken.factor),
            "ShearX": lambda: operations.shear_x(pixels, taken.shear, fill, bicubic),
            "ShearY": lambda: operations.shear_y(pixels, taken.shear, fill, bicubic),
            "TranslateX": lambda: operations.translate_x(pixels, taken.share, fill, bicubic),
            "TranslateY": lambda: operations.translate_y(pixels, taken.share, fill, bicubic),
        }
        return tf.switch_case(which, [*(branches[name] for name in NAMES), lambda: pixels])  # the last for `NOTHING`

    return step

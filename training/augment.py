"""Augmentation of training images: what a recipe says of it, and one picture's way through it to model input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from dvt_tf.preprocessing import PreprocessingSettings, crop_pixels, normalise
from training import crops
from training.draws import chance, first_that_fits, normal, sub_seed, uniform, whole_number
from training.mix import mix_batch
from training.randaugment import parse_policy, randaugment

CROPS = ("random_resized", "pad", "none")
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # share of the image; height / width
ATTEMPTS = 10  # boxes tried before an image is left as it is
_CROP, _FLIP, _RANDAUGMENT, _ERASE = range(4)  # what a draw is for
_WHETHER, _AREA, _SHAPE, _TOP, _LEFT, _NOISE = range(6)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are varied; as it stands, not at all.

    Args:
        crop: `random_resized` (a random part, resized), `pad` (the whole, framed in black and shifted; for small
            images) or `none` (the crop of evaluation).
        scale: the random part's area, as a share of the picture's: from, to.
        ratio: its width / height: from, to.
        interpolation: `bilinear`, `bicubic`, or `random` for one of them, drawn for each image; of either random crop,
            and of the operations of RandAugment that move pixels.
        flip: whether to mirror left and right with probability 0.5.
        randaugment: such as `rand-m9-mstd0.5-inc1`; "" for none.
        erase: probability of overwriting a random box with noise.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none.
        switch: probability of CutMix rather than mixup for a batch, where there are both.
        label_smoothing: share of the targets that is spread evenly over all classes.
    """

    crop: str = "none"
    scale: tuple[float, float] = crops.SCALE
    ratio: tuple[float, float] = crops.RATIO
    interpolation: str = "bicubic"
    flip: bool = False
    randaugment: str = ""
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for field, choices in (("crop", CROPS), ("interpolation", crops.INTERPOLATIONS)):
            if getattr(self, field) not in choices:
                raise _fault(field, f"one of {', '.join(choices)}", getattr(self, field))
        for field, highest in (("scale", 1.0), ("ratio", math.inf)):
            value = getattr(self, field)
            if not (isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))):
                raise _fault(field, "two numbers", value)
            if not 0 < value[0] <= value[1] <= highest or math.isinf(value[1]):
                limit = f" and at most {highest:g}" if field == "scale" else ""
                raise _fault(field, f"two numbers above 0{limit}, the smaller first", value)
            object.__setattr__(self, field, tuple(map(float, value)))  # TOML has lists
        if not isinstance(self.flip, bool):
            raise _fault("flip", "true or false", self.flip)
        for field in ("erase", "switch", "label_smoothing"):
            if not (_is_number(getattr(self, field)) and 0 <= getattr(self, field) <= 1):
                raise _fault(field, "a number from 0 to 1", getattr(self, field))
        for field in ("mixup", "cutmix"):
            if not (_is_number(getattr(self, field)) and 0 <= getattr(self, field) < math.inf):
                raise _fault(field, "a number of at least 0", getattr(self, field))
        if not isinstance(self.randaugment, str):
            raise _fault("randaugment", 'a text such as rand-m9-mstd0.5-inc1, or ""', self.randaugment)
        if self.randaugment:
            parse_policy(self.randaugment)


@tf.autograph.experimental.do_not_convert
def augment_image(pixels: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation, card: Mapping[str, Any]) -> tf.Tensor:
    """One decoded picture to model input: crop, flip, RandAugment, normalisation, random erasing, in this order.

    Args:
        pixels: uint8 (H, W, 3), of any size. seed: int32 (2,); the result is a function of these two.
        augmentation: what to do. card: the model's card; its preprocessing says the size, mean and deviation.

    Returns:
        float32 (S, S, 3), normalised.
    """
    settings = PreprocessingSettings.from_card(card)
    crop_seed = sub_seed(seed, _CROP)
    if augmentation.crop == "random_resized":
        cropped = crops.random_resized_crop(
            pixels,
            crop_seed,
            settings.image_size,
            augmentation.scale,
            augmentation.ratio,
            augmentation.interpolation,
        )
    elif augmentation.crop == "pad":
        cropped = crops.random_crop(pixels, crop_seed, settings.image_size, augmentation.interpolation)
    else:
        cropped = crop_pixels(pixels, card)
    if augmentation.flip:
        cropped = random_flip(cropped, sub_seed(seed, _FLIP))
    if augmentation.randaugment:
        red, green, blue = (round(255 * value) for value in settings.mean)
        cropped = randaugment(
            tf.cast(cropped, tf.uint8),
            sub_seed(seed, _RANDAUGMENT),
            parse_policy(augmentation.randaugment),
            (red, green, blue),
            augmentation.interpolation,
        )
    image = normalise(cropped, card)
    return random_erase(image, sub_seed(seed, _ERASE), augmentation.erase) if augmentation.erase else image


def mix(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation, num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch of augmented images and its labels to what is trained on: see `mix_batch`, whose settings these are.

    Erased boxes are mixed with the rest, as DeiT does it; the code of T2T-ViT and DVT mixes first and erases then.
    """
    return mix_batch(
        images,
        labels,
        seed,
        num_classes,
        augmentation.mixup,
        augmentation.cutmix,
        augmentation.switch,
        augmentation.label_smoothing,
    )


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """(H, W, C) of any type, mirrored left and right with probability 0.5."""
    return tf.cond(chance(seed, 0.5), lambda: tf.image.flip_left_right(image), lambda: image)


def random_erase(image: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """A random box overwritten with noise, standard normal in each value (Zhong et al., 2020, arXiv 1708.04896).

    Args:
        image: float32 (S, S, 3), normalised. seed: int32 (2,). probability: that there is a box at all.
    """

    def erased() -> tf.Tensor:
        height, width = tf.unstack(tf.shape(image, tf.int64)[:2])
        top, left, box_height, box_width = erase_box(height, width, seed)
        rows, columns = tf.range(height)[:, None, None], tf.range(width)[None, :, None]
        inside = (rows >= top) & (rows < top + box_height) & (columns >= left) & (columns < left + box_width)
        return tf.where(inside, normal(sub_seed(seed, _NOISE), tf.shape(image), tf.float32), image)

    return tf.cond(chance(sub_seed(seed, _WHETHER), probability), erased, lambda: image)


def erase_box(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The box that `random_erase` overwrites in height x width pixels: top, left, height, width, int64 each.

    Ten times an area is drawn uniformly and a ratio log-uniformly; the first box that is smaller than the image both
    ways is placed at random. If none is, its height and width are 0.
    """
    area = tf.cast(height * width, tf.float64) * uniform(sub_seed(seed, _AREA), *ERASED_AREA, (ATTEMPTS,))
    low, high = map(math.log, ERASED_RATIO)
    shape = tf.exp(uniform(sub_seed(seed, _SHAPE), low, high, (ATTEMPTS,)))
    heights = tf.cast(tf.round(tf.sqrt(area * shape)), tf.int64)
    widths = tf.cast(tf.round(tf.sqrt(area / shape)), tf.int64)
    fits = (heights < height) & (widths < width)
    nothing = tf.constant(0, tf.int64)
    box_height, box_width = (first_that_fits(fits, sides, nothing) for sides in (heights, widths))
    top = whole_number(sub_seed(seed, _TOP), height - box_height + 1)
    left = whole_number(sub_seed(seed, _LEFT), width - box_width + 1)
    return top, left, box_height, box_width


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fault(field: str, wanted: str, value: Any) -> ValueError:
    return ValueError(f"augmentation field {field} must be {wanted}, not {value!r}")

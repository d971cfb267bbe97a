"""What a cascade is made of: the frozen dataclasses that describe one, and the named ones.

A preset is data: a new size is a new entry here and no new code. Widths and depths follow Wang et al.,
"Not All Images are Worth 16x16 Words", NeurIPS 2021 (arXiv 2105.15075), section 4, DeiT (arXiv 2012.12877) and T2T-ViT
(arXiv 2101.11986).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dvt_tf.class_names import DIGITS, SHAPES, imagenet_1k, imagenet_1k_synsets

REUSE_CHOICES = ("none", "shallow", "deep", "all")
EMBEDDINGS = ("patch", "tokens_to_token")
POSITION_EMBEDDINGS = ("learned", "sinusoid")
POSITION_INITS = ("normal", "sinusoid_2d")
LINEAR_INITS = ("normal", "glorot")
# Fields that trained weights do not depend on: another value is the same model.
TRAINING_FIELDS = ("position_init", "linear_init", "drop_path_rate", "performer_dropout_rate")

# First soft split of tokens-to-token for (image size, tokens a side): kernel, stride and padding in pixels. Those of
# 224 pixels are the published ones; 112 has the same overlaps at half the size, 28 is for the smallest of images.
FIRST_SOFT_SPLITS: dict[tuple[int, int], tuple[int, int, int]] = {
    (224, 7): (14, 8, 3),
    (224, 10): (11, 6, 5),
    (224, 14): (7, 4, 2),
    (112, 7): (7, 4, 2),
    (112, 10): (5, 3, 2),
    (112, 14): (3, 2, 1),
    (28, 2): (7, 4, 2),
    (28, 3): (5, 3, 2),
    (28, 4): (3, 2, 1),
}
LATER_SOFT_SPLIT = (3, 2, 1)


def tokens_to_token_splits(image_size: int, grid: int) -> tuple[tuple[int, int, int], ...]:
    """Kernel, stride and padding of the three soft splits that make grid x grid tokens of an image.

    Raises:
        ValueError: none are known for this pair; the message lists the ones that are.
    """
    if (image_size, grid) not in FIRST_SOFT_SPLITS:
        known = ", ".join(f"{size} pixels to {tokens}" for size, tokens in FIRST_SOFT_SPLITS)
        raise ValueError(
            f"token_grids: tokens-to-token has no soft split from {image_size} pixels to {grid} tokens a side; "
            f"it has {known}"
        )
    return (FIRST_SOFT_SPLITS[image_size, grid], LATER_SOFT_SPLIT, LATER_SOFT_SPLIT)


@dataclasses.dataclass(frozen=True)
class CascadeConfig:
    """The architecture of a cascade of vision Transformers.

    Args:
        image_size: side of the square input image, in pixels.
        token_grids: tokens per side of each Transformer, strictly increasing; one grid makes a static baseline.
        num_classes: width of every head.
        embedding: how an image becomes tokens; `"patch"` is DeiT's strided convolution, `"tokens_to_token"` T2T-ViT's
            soft splits and performers.
        dim: width of the tokens.
        depth: blocks per Transformer.
        num_heads: attention heads per block; divides `dim`.
        mlp_ratio: hidden width of a block's MLP over `dim`.
        qkv_bias: whether the query, key and value projection has a bias.
        norm_epsilon: epsilon of every LayerNorm of the Transformers.
        position_embedding: `"learned"`, or `"sinusoid"` for the fixed table.
        position_init: where a learned position embedding starts: `"normal"` (deviation 0.02) or `"sinusoid_2d"`.
        linear_init: where linear layers start: `"normal"`, the published deviation of 0.02 whatever their width, or
            `"glorot"`, by their width (Glorot and Bengio, 2010): narrow ones learn sooner from it
            (docs/studies_method.md). In any case the mixing of relationships and the strided convolution of patches
            start by their width, heads by 0.02.
        performer_dim: width of a performer of tokens-to-token (64 in T2T-ViT); without meaning for patches.
        performer_features: random features of a performer (32 in T2T-ViT).
        performer_dropout_rate: dropout inside a performer, in training.
        feature_reuse: which downstream blocks reuse the upstream's features: none, shallow, deep or all.
        relationship_reuse: which downstream blocks add the upstream's mixed attention logits.
        relationship_source: which upstream blocks give their attention logits; says nothing where none are reused.
        feature_reuse_hidden: hidden width of the feature-reuse MLP (128 in the paper).
        feature_reuse_dim: channels of reused features (48 in the paper).
        drop_path_rate: stochastic depth of the last block in training; grows linearly from 0 at the first.

    Raises:
        ValueError: a field is out of range; the message names the field, what it was and what it may be.
    """

    image_size: int = 224
    token_grids: tuple[int, ...] = (7, 10, 14)
    num_classes: int = 1000
    embedding: str = "patch"
    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    norm_epsilon: float = 1e-6
    position_embedding: str = "learned"
    position_init: str = "normal"
    linear_init: str = "normal"
    performer_dim: int = 64
    performer_features: int = 32
    performer_dropout_rate: float = 0.1
    feature_reuse: str = "all"
    relationship_reuse: str = "all"
    relationship_source: str = "all"
    feature_reuse_hidden: int = 128
    feature_reuse_dim: int = 48
    drop_path_rate: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.token_grids, str) or not isinstance(self.token_grids, Sequence):
            raise ValueError(f"token_grids must be a list of whole numbers, not {self.token_grids!r}")
        object.__setattr__(self, "token_grids", tuple(self.token_grids))
        for field in ("image_size", "num_classes", "dim", "depth", "num_heads", "performer_dim", "performer_features"):
            _check_whole(field, getattr(self, field))
        for field in ("feature_reuse_hidden", "feature_reuse_dim"):
            _check_whole(field, getattr(self, field))
        if not self.token_grids:
            raise ValueError("token_grids is empty; give at least one grid, for example [7, 10, 14]")
        for grid in self.token_grids:
            _check_whole("token_grids", grid)
            if grid > self.image_size:
                raise ValueError(
                    f"token_grids has {grid}, more tokens a side than the {self.image_size} pixels there are"
                )
        if any(b <= a for a, b in zip(self.token_grids, self.token_grids[1:], strict=False)):
            raise ValueError(f"token_grids must be strictly increasing, not {list(self.token_grids)}")
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.relationship_source == "none" and self.relationship_reuse != "none":
            raise ValueError("relationship_source 'none' gives nothing to reuse; set relationship_reuse='none' instead")
        for field, choices in (
            ("feature_reuse", REUSE_CHOICES),
            ("relationship_reuse", REUSE_CHOICES),
            ("relationship_source", REUSE_CHOICES),
            ("embedding", EMBEDDINGS),
            ("position_embedding", POSITION_EMBEDDINGS),
            ("position_init", POSITION_INITS),
            ("linear_init", LINEAR_INITS),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, not {getattr(self, field)!r}")
        for field in ("drop_path_rate", "performer_dropout_rate"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ValueError(f"{field} must be at least 0 and below 1, not {getattr(self, field)!r}")
        if self.embedding == "tokens_to_token":
            for grid in self.token_grids:
                tokens_to_token_splits(self.image_size, grid)
        for field in ("mlp_ratio", "norm_epsilon"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be a finite number above 0, not {getattr(self, field)!r}")
        if self.mlp_dim < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} of dim {self.dim} leaves the MLP no hidden width")
        # A source means nothing where nothing is taken from it.
        taking = ("relationship_reuse", "relationship_source") if self.relationship_reuse != "none" else ()
        for field in ("feature_reuse", *taking):
            if getattr(self, field) != "none" and not blocks_of(getattr(self, field), self.depth):
                raise ValueError(
                    f"{field} {getattr(self, field)!r} names no block of a Transformer of depth {self.depth}"
                )

    @property
    def num_exits(self) -> int:
        """One exit per Transformer."""
        return len(self.token_grids)

    @property
    def mlp_dim(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.dim * self.mlp_ratio)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields = dataclasses.asdict(self)
        fields["token_grids"] = list(self.token_grids)
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CascadeConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field that a cascade does not have; the message lists the ones it has.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"unknown configuration field {', '.join(unknown)}; the fields are {', '.join(known)}")
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"a configuration field has the wrong kind of value: {error}") from error


def _check_whole(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{field} must be a whole number of at least 1, not {value!r}")


def blocks_of(choice: str, depth: int) -> range:
    """The blocks that a reuse choice names: `"shallow"` is the first floor(depth/2), `"deep"` the rest."""
    return {"none": range(0), "shallow": range(depth // 2), "deep": range(depth // 2, depth), "all": range(depth)}[
        choice
    ]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named cascade: its architecture, its input, and what it was made for.

    Args:
        config: the architecture.
        preprocessing: how pixels become model input: `image_size`, `resize_short_side` (pixels), `interpolation`,
            `mean` and `std` (of pixels scaled to [0, 1]).
        description: one line for `dvt presets`.
        class_names: one name per class; empty where the names come with the weights.
        class_ids: what folders of the data call the classes where that is not their names, in the same order.
        bundled: whether trained weights ship with the package.
        recipe: of training, where there are no published weights to convert.
    """

    config: CascadeConfig
    preprocessing: Mapping[str, Any]
    description: str
    class_names: tuple[str, ...] = ()
    class_ids: tuple[str, ...] = ()
    bundled: bool = False
    recipe: str = ""


IMAGENET_PREPROCESSING = {
    "image_size": 224,
    "resize_short_side": 256,
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}

_T2T_VIT_12 = CascadeConfig(
    embedding="tokens_to_token",
    dim=256,
    depth=12,
    num_heads=4,
    mlp_ratio=2.0,
    qkv_bias=False,
    norm_epsilon=1e-5,
    position_embedding="sinusoid",
)
_T2T_VIT_14 = dataclasses.replace(_T2T_VIT_12, dim=384, depth=14, num_heads=6, mlp_ratio=3.0)
_DEIT_SMALL = CascadeConfig()


def _imagenet(config: CascadeConfig, description: str) -> Preset:
    return Preset(
        config=config,
        preprocessing=IMAGENET_PREPROCESSING,
        description=description,
        class_names=imagenet_1k(),
        class_ids=imagenet_1k_synsets(),
    )


def _single(config: CascadeConfig) -> CascadeConfig:
    """The static Transformer of the finest grid; `from_preset(..., token_grids=(7,))` makes one of another."""
    return dataclasses.replace(config, token_grids=config.token_grids[-1:])


_TINY = CascadeConfig(
    image_size=112,
    num_classes=10,
    dim=96,
    depth=4,
    num_heads=2,
    mlp_ratio=3.0,
    position_init="sinusoid_2d",
    linear_init="glorot",
    feature_reuse_hidden=64,
    feature_reuse_dim=32,
    drop_path_rate=0.05,
)
_SCENE_PREPROCESSING = {
    "image_size": 112,
    "resize_short_side": 112,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}

PRESETS: dict[str, Preset] = {
    "dvt_t2t_vit_12": _imagenet(_T2T_VIT_12, "DVT on T2T-ViT-12, as published for ImageNet-1k"),
    "dvt_t2t_vit_14": _imagenet(_T2T_VIT_14, "DVT on T2T-ViT-14, as published for ImageNet-1k"),
    "dvt_deit_small": _imagenet(_DEIT_SMALL, "DVT on DeiT-S, as published for ImageNet-1k"),
    "t2t_vit_12": _imagenet(_single(_T2T_VIT_12), "T2T-ViT-12 alone, a static baseline"),
    "t2t_vit_14": _imagenet(_single(_T2T_VIT_14), "T2T-ViT-14 alone, a static baseline"),
    "deit_small": _imagenet(_single(_DEIT_SMALL), "DeiT-S alone, a static baseline"),
    "dvt_tiny_digits": Preset(
        config=_TINY,
        preprocessing=_SCENE_PREPROCESSING,
        description="handwritten digits in cluttered scenes; the bundled, trained one",
        class_names=DIGITS,
        bundled=True,
        recipe="digits",
    ),
    "dvt_tiny_shapes": Preset(
        config=dataclasses.replace(_TINY, num_classes=len(SHAPES)),
        preprocessing=_SCENE_PREPROCESSING,
        description="patterned shapes in scenes like nature's",
        class_names=SHAPES,
        recipe="shapes",
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the message lists the names and the nearest one.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"unknown preset {name!r}{hint}; the presets are {', '.join(PRESETS)}")

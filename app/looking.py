"""Where each exit looked, and what the next one took over from it: heat maps over the very pixels the model saw."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Sequence

import matplotlib
import matplotlib.colors
import numpy as np
import tensorflow as tf

from app.inference import Predictor
from app.views import colour_class, grid_text, percent, png_url
from dvt_tf import attention_maps
from dvt_tf.layers.patch_embedding import patch_geometry
from dvt_tf.presets import CascadeConfig, blocks_of
from dvt_tf.vision_transformer import TransformerOutputs, VisionTransformer

COLOURS = "inferno"  # a colour map of matplotlib's, perceptually uniform: black is nothing, light yellow the largest
COLOUR_SHARE = 0.55  # of a picture; the rest is the image in grey
SEAM = 0.82  # what remains of the light where two cells meet


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """One value per token.

    values: (g, g) float32, at least 0. picture: (S, S, 3) uint8, the image in grey under one flat colour for each
    token's cell; colours run from black at 0 to light yellow at the map's largest value.
    """

    values: np.ndarray
    picture: np.ndarray

    @property
    def peak(self) -> float:
        """The largest value over the mean of all: 1 is an even map."""
        mean = float(self.values.mean())
        return float(self.values.max()) / mean if mean > 0 else 1.0

    @property
    def brightest(self) -> tuple[int, int]:
        """Row and column of the largest value, from 1."""
        row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return int(row) + 1, int(column) + 1


@dataclasses.dataclass(frozen=True)
class HandedOn:
    """What the next exit took over from one, on the next exit's own, finer grid; see `dvt_tf.attention_maps`.

    features: how far the features that each token is given differ from their mean. attention: where its class token
    would look by the reused relationships alone. share: of its attention logits that comes from them, by variance, from
    0 to 1. None where the model does not reuse the one or the other.
    """

    features: HeatMap | None
    attention: HeatMap | None
    share: float | None


@dataclasses.dataclass(frozen=True)
class Look:
    """One exit, 1-based: the index of the class it says, where it looked, what it handed on (None for the last)."""

    exit: int
    label: int
    rollout: HeatMap
    handed_on: HandedOn | None


def look(predictor: Predictor, image_bytes: bytes) -> list[Look]:
    """Runs every exit on one image and says where each looked.

    Raises:
        image_files.ImageError: the bytes are no image that can be read.
    """
    outputs = predictor.outputs_of(image_bytes)
    pixels = predictor.pixels_of(image_bytes)[0].numpy()
    config, transformers = predictor.config, predictor.model.transformers
    looks = []
    for k, own in enumerate(outputs):
        handed_on = None
        if k + 1 < len(outputs):
            handed_on = _handed_on(transformers[k + 1], own, outputs[k + 1], pixels, config)
        rollout = heat_map(attention_maps.rollout(own.relationships)[0].numpy(), pixels, config)
        looks.append(Look(k + 1, int(tf.argmax(own.logits[0])), rollout, handed_on))
    return looks


def _handed_on(
    transformer: VisionTransformer,
    upstream: TransformerOutputs,
    outputs: TransformerOutputs,
    pixels: np.ndarray,
    config: CascadeConfig,
) -> HandedOn:
    features = attention_maps.reused_features(transformer, upstream, centred=True)
    attention = attention_maps.reused_attention(transformer, upstream)
    share = attention_maps.reused_relationships(transformer, upstream, outputs)
    return HandedOn(
        None if features is None else heat_map(features[0].numpy(), pixels, config),
        None if attention is None else heat_map(attention[0].numpy(), pixels, config),
        None if share is None else float(share[0]),
    )


def heat_map(values: np.ndarray, pixels: np.ndarray, config: CascadeConfig) -> HeatMap:
    """Draws one value per token, (g, g) and at least 0, over the image (S, S, 3) of 0 to 255, cell by cell."""
    cell = token_of_pixel(config, len(values))
    scaled = values / max(float(values.max()), np.finfo(np.float32).tiny)
    colour = matplotlib.colormaps[COLOURS](scaled[np.ix_(cell, cell)])[..., :3]  # (S, S, 3) from 0 to 1
    grey = pixels.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    light = COLOUR_SHARE * colour + (1 - COLOUR_SHARE) * grey[..., None]
    seams = np.flatnonzero(np.diff(cell)) + 1
    light[seams] *= SEAM
    light[:, seams] *= SEAM
    return HeatMap(values, np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8))


def token_of_pixel(config: CascadeConfig, grid: int) -> np.ndarray:
    """Which of `grid` tokens, 0-based, each pixel along a side belongs to: (S,) int. The cells of `views.grid_edges`.

    A patch embedding's kernels may reach past the image. Any other embedding has overlapping tokens: even cells.
    """
    centre = np.arange(config.image_size) + 0.5
    if config.embedding != "patch":
        return (centre * grid / config.image_size).astype(int)
    kernel, outside = patch_geometry(config.image_size, grid)
    return ((centre + outside) / kernel).astype(int)


def panel_html(looks: Sequence[Look], predictor: Predictor, answered_at: int | None = None) -> str:
    """All exits side by side, a card each (looking.css); the arguments are those of `look_html`."""
    cards = "".join(look_html(look, predictor, answered_at) for look in looks)
    return f'<div class="dvt-looks">{cards}</div>'


def look_html(look: Look, predictor: Predictor, answered_at: int | None = None) -> str:
    """One exit's maps with captions, alone or inside its card on the path.

    Args:
        look: one of those that `look` gave.
        predictor: the model that looked.
        answered_at: the exit (1-based) that the image left at; those after it never ran, so that they are told as what
            would be. None tells all as done.
    """
    last_run = predictor.num_exits if answered_at is None else answered_at
    looked = "looked" if look.exit <= last_run else "would look"
    title = f"Where exit {look.exit} {looked} to say {predictor.class_names[look.label]}"
    caption = "Attention rollout of the class token, one cell a token"
    return (
        f'<section class="dvt-look {colour_class(look.exit)}" data-testid="look-{look.exit}" '
        f'aria-label="{html.escape(title)}"><h4>{html.escape(title)}</h4>'
        f"{_figure(look.rollout, f'{title}: attention rollout', caption)}"
        f"{_handed_html(look, predictor.config, last_run)}</section>"
    )


def _handed_html(look: Look, config: CascadeConfig, last_run: int) -> str:
    """What the next exit takes over, or in one sentence why it takes nothing."""
    handed, following = look.handed_on, look.exit + 1
    if handed is None:
        which = "The only exit" if config.num_exits == 1 else "The last exit"
        return f'<p class="dvt-look-note">{which}: there is none after it to hand anything on to.</p>'
    hands = "Handed on" if following <= last_run else "Would hand on"
    if handed.features is None and handed.attention is None:
        return (
            f'<p class="dvt-look-note">{hands} to exit {following}: nothing. '
            "This model reuses neither features nor relationships.</p>"
        )
    figures, notes = "", []
    if handed.features is None:
        notes.append("This model reuses no features.")
    else:
        alt = f"Features for exit {following}, how far each token's are from the mean"
        figures += _figure(handed.features, alt, "<b>Features</b>: how far each token’s are from the mean")
    if handed.attention is None or handed.share is None:
        notes.append("This model reuses no relationships.")
    else:
        alt = f"Relationships for exit {following}, where it would look by these alone"
        figures += _figure(handed.attention, alt, "<b>Relationships</b>: where these alone would look")
        taking = len(blocks_of(config.relationship_reuse, config.depth))
        where = f" in the {taking} of its {config.depth} blocks that take any" if taking < config.depth else ""
        notes.append(
            f"Relationships are <b>{percent(handed.share)}</b> of what exit {following}’s attention weighs by{where} "
            "(variance of its logits)."
        )
    return (
        f'<h4>{hands} to exit {following}</h4><div class="dvt-look-handed">{figures}</div>'
        f'<p class="dvt-look-note">{" ".join(notes)}</p>'
    )


def _figure(heat: HeatMap, alt: str, caption: str) -> str:
    """A map with its colour scale; `alt` is plain text, `caption` HTML."""
    (row, column), grid = heat.brightest, grid_text(len(heat.values))
    alt = f"{alt}. Heat map of {grid}, brightest in row {row}, column {column}: {heat.peak:.1f} times the mean token"
    return (
        f'<figure><img alt="{html.escape(alt)}" src="{png_url(heat.picture)}">'
        f'<div class="dvt-look-scale" aria-hidden="true"><span>0</span><i style="background:{_scale()}"></i>'
        f"<span>{heat.peak:.1f}× mean</span></div>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


@functools.cache
def _scale() -> str:
    """The colours of the maps as a CSS gradient."""
    colours = matplotlib.colormaps[COLOURS](np.linspace(0, 1, 9))
    return f"linear-gradient(90deg,{','.join(matplotlib.colors.to_hex(colour) for colour in colours)})"

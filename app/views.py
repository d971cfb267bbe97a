"""What the page draws, as pure functions to HTML: the answer, the cost, the path through the exits, the token grid.

Every string that comes from a card or a file is escaped here. Nothing is told by colour alone.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from app.budgets import BudgetChoice
from app.routing import Decision, threshold_text, thresholds_text
from dvt_tf.presets import CascadeConfig

COST_NOTE = "multiply-adds, as the paper counts"
ALL_CLASSES = 12  # up to so many classes, every exit lists all of them, in their own order
TOP_CLASSES = 5
EXIT_COLOURS = 6  # in style.css; further exits begin again
# What a guarantee promises of an image, and of which images, in a person's words.
RISKS = {
    "disagreement": "get another answer than the full cascade's",
    "accuracy_drop": "are answered wrongly where the full cascade is right",
}
PROMISED_ON = {
    "new images": "new images drawn as these were",
    "new sources": "images of new sources",
    "this pool of sources": "new images of these same sources",
}


def percent(share: float) -> str:
    """`98.3%`; never 100% or 0% for what is not quite."""
    if 0.9995 <= share < 1.0:
        return "&gt;99.9%"
    if 0.0 < share < 0.0005:
        return "&lt;0.1%"
    return f"{share * 100:.1f}%"


def gflops(gmacs: float) -> str:
    """Three significant digits, without an exponent: `0.0213`, `1.15`, `12.1`."""
    if gmacs <= 0:
        return "0"
    return f"{gmacs:.{max(0, 2 - math.floor(math.log10(gmacs)))}f}"


def grid_text(grid: int) -> str:
    """`7×7 tokens`."""
    return f"{grid}×{grid} tokens"


def colour_class(exit_number: int) -> str:
    """The CSS class that gives an exit (1-based) its colour."""
    return f"dvt-exit-{(exit_number - 1) % EXIT_COLOURS + 1}"


def png_url(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 -> a lossless data URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def model_line(card: dict, config: CascadeConfig, parameters: int, name: str) -> str:
    """What the model recognises, how well, and what it is made of, from its card."""
    classes = card["class_names"]
    shown = ", ".join(classes) if len(classes) <= ALL_CLASSES else ", ".join(classes[:3]) + ", …"
    grids = " → ".join(f"{grid}×{grid}" for grid in config.token_grids)
    description = f" — {html.escape(card['description'])}" if card.get("description") else ""
    return (
        f'<p class="dvt-model"><b>{html.escape(name)}</b>{description}. '
        f"Recognises {len(classes)} classes ({html.escape(shown)}){_how_well(card)}; tokens {grids}; "
        f"{parameters / 1e6:.2f} M parameters.</p>"
    )


def _how_well(card: Mapping[str, Any]) -> str:
    """Top-1 of the last exit, as the card tells it, of its own evaluation or the checkpoint's published one."""
    figures, published = card.get("figures", {}), card.get("published", {})
    if figures.get("exits"):
        where = f" on {html.escape(str(figures['data']))}" if figures.get("data") else ""
        images = f", {figures['images']:,} images" if figures.get("images") else ""
        return f", right on {percent(figures['exits'][-1]['top1'])} at the last exit{where}{images}"
    if published.get("curve"):
        return f", {percent(max(top1 for _, top1 in published['curve']) / 100)} top-1 as published"
    return ""


def thresholds_line(thresholds: Mapping[str, Any]) -> str:
    """The model's own thresholds and how they were chosen, from its card; "" for one exit."""
    values = thresholds["values"]
    if not values:
        return ""
    promise, method = thresholds.get("guarantee", {}), thresholds.get("method", "none")
    if promise.get("risk") in RISKS:
        images = PROMISED_ON.get(promise.get("about"), "images")
        how = (
            f"promised with {promise['confidence'] * 100:g}% confidence that at most {promise['level'] * 100:g}% of "
            f"{images} {RISKS[promise['risk']]} (Learn-then-Test)"
        )
    elif method != "none":
        how = method
    else:
        how = "none were chosen" if min(values) > 1 else "the card does not say how they were chosen"
    data = f" Data: {_data_of(thresholds)}." if thresholds.get("data") else ""
    return f'<p class="dvt-model">Thresholds <b>{thresholds_text(values)}</b>: {html.escape(how)}.{data}</p>'


def _data_of(about: Mapping[str, Any]) -> str:
    """The data that thresholds were chosen on: `digits@val, 2,000 images`."""
    return html.escape(about["data"]) + (f", {about['images']:,} images" if about.get("images") else "")


def warning_html(note: str) -> str:
    """A warning that stays in sight; "" without a note."""
    if not note:
        return ""
    return f'<section class="dvt-warning" aria-label="Warning"><b>Warning:</b> {html.escape(note)}.</section>'


def milliseconds_text(milliseconds: float) -> str:
    """`4.2 ms`; whole numbers from 10 on."""
    return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"


def pixels_html(pixels: np.ndarray) -> str:
    """The very pixels that the model sees, and a style that shows them wherever `seen_html` stands on the page."""
    size, url = pixels.shape[0], png_url(pixels)
    alt = f"The image as the model sees it, {size} by {size} pixels"
    style = f'<style>.dvt-seen {{ background-image: url("{url}"); }}</style>'
    return f'{style}<img class="dvt-pixels" alt="{alt}" src="{url}">'


def seen_html(config: CascadeConfig, exit_number: int) -> str:
    """The image under the token grid of an exit (1-based), small; the pixels come from `pixels_html`."""
    grid = grid_text(config.token_grids[exit_number - 1])
    return f'<div class="dvt-seen" role="img" aria-label="The image in {grid}">{_grid_svg(config, exit_number)}</div>'


def _grid_svg(config: CascadeConfig, exit_number: int, attributes: str = 'aria-hidden="true"') -> str:
    size, grid = config.image_size, config.token_grids[exit_number - 1]
    path = "".join(f"M{edge:g} 0V{size}M0 {edge:g}H{size}" for edge in grid_edges(config, grid))
    return (
        f'<svg class="dvt-grid" viewBox="0 0 {size} {size}" {attributes}>'
        f'<path class="dvt-grid-under" d="{path}"/><path class="dvt-grid-over" d="{path}"/></svg>'
    )


def grid_edges(config: CascadeConfig, grid: int) -> list[float]:
    """Where the cells of a token grid meet inside the image, in pixels.

    A patch embedding's kernels may reach past the image: 112 pixels and 10 tokens give kernels of 12 and 4 pixels
    outside on either side. Any other embedding has overlapping tokens, for which even cells are drawn.
    """
    size = config.image_size
    if config.embedding != "patch":
        return [size * i / grid for i in range(1, grid)]
    kernel = math.ceil(size / grid)
    outside = (grid * kernel - size) / 2
    return [edge for edge in (i * kernel - outside for i in range(1, grid)) if 0 < edge < size]


def grid_html(config: CascadeConfig, exit_number: int) -> str:
    """The token grid of an exit (1-based), to lie over `pixels_html`: white lines on dark ones, seen on any ground."""
    grid = config.token_grids[exit_number - 1]
    caption = f"exit {exit_number}: {grid}×{grid} = {grid * grid} tokens"
    drawing = _grid_svg(config, exit_number, f'role="img" aria-label="Token grid of {caption}"')
    return f'{drawing}<p class="dvt-caption">What the model sees, in the grid of {caption}</p>'


def answer_html(
    decision: Decision, class_names: Sequence[str], grids: Sequence[int], milliseconds: Sequence[float]
) -> str:
    """The answer, its confidence, the exit that gave it, and what that cost beside the full cascade.

    `milliseconds` (K,) were measured for this image, to each exit.
    """
    number, exits = decision.exit, len(grids)
    label = html.escape(class_names[decision.label])
    size = "dvt-short" if len(class_names[decision.label]) <= 3 else "dvt-long"
    return (
        f'<section class="dvt-answer {colour_class(number)}" aria-label="Answer">'
        f'<div class="dvt-verdict"><div class="dvt-label {size}" data-testid="label">{label}</div>'
        f'<div><p class="dvt-sure"><b data-testid="confidence">{percent(decision.confidence)}</b> confident</p>'
        '<p class="dvt-where"><span class="dvt-wide">answered </span>at '
        f'<b data-testid="exit">exit {number} of {exits}</b>, {grid_text(grids[number - 1])}</p></div></div>'
        f"{cost_html(decision, milliseconds)}</section>"
    )


def cost_html(decision: Decision, milliseconds: Sequence[float]) -> str:
    """The bar of GFLOPs spent beside the full cascade, with the numbers, and the time that was measured."""
    width = decision.share * 100
    spent, full = gflops(decision.gmacs), gflops(decision.full_gmacs)
    saved = (
        f"{100 - width:.0f}% saved" if decision.gmacs < decision.full_gmacs else "nothing saved: the full cascade ran"
    )
    taken, whole = milliseconds_text(milliseconds[decision.exit - 1]), milliseconds_text(milliseconds[-1])
    return (
        '<div class="dvt-cost"><p><b data-testid="gflops">'
        f'{spent} GFLOPs</b> spent of <span data-testid="full-gflops">{full}</span> for the full cascade</p>'
        f'<div class="dvt-bar" role="img" aria-label="{width:.0f} percent of the full cost">'
        f'<i style="width:{width:.2f}%"></i></div>'
        f'<p class="dvt-small"><b data-testid="share">{width:.0f}%</b> of the full cost, {saved}. '
        f"{COST_NOTE.capitalize()}.</p>"
        f'<p class="dvt-small dvt-time"><b data-testid="milliseconds">{taken}</b> measured for this image on this '
        f"machine, of {whole} for the full cascade.</p></div>"
    )


def path_html(
    probabilities: Sequence[Sequence[float]],
    decision: Decision,
    class_names: Sequence[str],
    config: CascadeConfig,
    gmacs: Sequence[float],
) -> str:
    """The exits as stations of a path, one column each with its class probabilities; K of them, whatever K is."""
    exits = config.num_exits
    stations = "".join(
        _station(k, probabilities[k - 1], decision, class_names, config, gmacs[k - 1]) for k in range(1, exits + 1)
    )
    return f'<ol class="dvt-path" style="--exits:{exits}" aria-label="The path through the exits">{stations}</ol>'


def _station(
    number: int,
    row: Sequence[float],
    decision: Decision,
    class_names: Sequence[str],
    config: CascadeConfig,
    gmacs: float,
) -> str:
    state, badge = _state(number, decision)
    return (
        f'<li class="dvt-station {colour_class(number)} dvt-{state}" data-testid="station-{number}" '
        f'data-state="{state}">'
        f'<div class="dvt-rail"><span class="dvt-marker">{number}</span><span class="dvt-badge">{badge}</span></div>'
        f'<div class="dvt-card"><div class="dvt-station-head"><div>'
        f"<h3>Exit {number}</h3><p>{grid_text(config.token_grids[number - 1])}<br>{gflops(gmacs)} GFLOPs</p></div>"
        f"{seen_html(config, number)}</div>{_rule(number, decision)}{bars_html(row, class_names)}</div></li>"
    )


def _state(number: int, decision: Decision) -> tuple[str, str]:
    if number < decision.exit:
        return "passed", "not sure, goes on"
    if number > decision.exit:
        return "skipped", "never run"
    return "fired", "sure, answers" if number < len(decision.confidences) else "last exit, answers"


def _rule(number: int, decision: Decision) -> str:
    """Confidence against the threshold, in words and as a bar with a tick where the threshold is."""
    confidence = decision.confidences[number - 1]
    sure, tick = f"<b>{percent(confidence)}</b> confident", ""
    if number > decision.exit:  # it never ran, so nothing was held against its threshold
        words = f"would be {sure}"
    elif number == len(decision.confidences):
        words = f"{sure}, last exit"
    elif decision.thresholds[number - 1] > 1:
        words = f"{sure}, {threshold_text(decision.thresholds[number - 1])}"
    else:
        needed = decision.thresholds[number - 1] * 100
        words, tick = f"{sure}, needs {needed:.0f}%", f'<b style="left:{needed:.2f}%"></b>'
    return (
        f'<p class="dvt-rule">{words}</p>'
        f'<div class="dvt-meter" aria-hidden="true"><i style="width:{confidence * 100:.2f}%"></i>{tick}</div>'
    )


def bars_html(row: Sequence[float], class_names: Sequence[str]) -> str:
    """One exit's class probabilities as a compact list of bars: all of a few classes, or the five largest of many."""
    order = sorted(range(len(row)), key=lambda c: -row[c])
    shown = range(len(row)) if len(row) <= ALL_CLASSES else order[:TOP_CLASSES]
    items = "".join(_bar(row[c], class_names[c], c == order[0]) for c in shown)
    rest = "" if len(row) <= ALL_CLASSES else f'<p class="dvt-small">{len(row) - TOP_CLASSES} more classes</p>'
    letters = max(len(class_names[c]) for c in shown)  # so that all bars begin below one another
    return f'<ul class="dvt-bars" style="--letters:{letters}" aria-label="Class probabilities">{items}</ul>{rest}'


def _bar(share: float, name: str, is_top: bool) -> str:
    name = html.escape(name)
    return (
        f'<li{" class=dvt-top" if is_top else ""}><span class="dvt-name" title="{name}">{name}</span>'
        f'<span class="dvt-track"><i style="width:{share * 100:.2f}%"></i></span>'
        f'<span class="dvt-value">{percent(share)}</span></li>'
    )


def message_html(message: str) -> str:
    """An error in place of an answer."""
    return f'<section class="dvt-message" role="alert"><b>That did not work.</b> {html.escape(message)}</section>'


def invitation_html() -> str:
    """What stands in place of an answer before there is an image."""
    return (
        '<section class="dvt-message dvt-quiet">Give it an image: upload, paste, photograph or draw one, or choose one '
        "on this page.</section>"
    )


def reading_html(thresholds: Sequence[float], origin: str) -> str:
    """The reading beside the confidence slider; `origin` says who chose the thresholds."""
    size = " dvt-several" if len(thresholds) > 2 else ""  # these may take a line more, which is kept free
    return (
        f'<output class="dvt-reading{size}" role="status">Confidence needed to stop early '
        f"<small>({origin}):</small> "
        f'<b data-testid="reading">{thresholds_text(thresholds)}</b></output>'
    )


def budget_reading_html(choice: BudgetChoice) -> str:
    """The reading of the budget slider: the mean cost, and what the card expects of the thresholds for it."""
    how = budget_thresholds_text(choice.thresholds)
    if choice.expected is None:
        said = html.escape(choice.note)
    elif choice.measure == "agreement":
        said = f"answers as the full cascade for <b>{percent(choice.expected)}</b>, {how}"
    else:
        said = f"expected <b>{percent(choice.expected)}</b> top-1, {how}"
    return (
        '<output class="dvt-budget" role="status" data-testid="budget-reading">'
        f"<span>Budget <b>{gflops(choice.gmacs)} GFLOPs</b> per image on average "
        f"({choice.share * 100:.0f}% of the full cascade):</span> "
        f"<span>{said}</span></output>"
    )


def budget_thresholds_text(thresholds: Sequence[float]) -> str:
    """`thresholds 0.90, then 0.84`; in words where they settle the exit of every image."""
    if thresholds[0] <= 0:
        return "every image leaves at exit 1"
    if min(thresholds) > 1:
        return "every image runs the full cascade"
    text = thresholds_text(thresholds)
    return f"thresholds {text}" if "then" in text else f"threshold {text}"


def no_budget_html() -> str:
    """The reading of the budget slider while no budget has chosen the thresholds."""
    return (
        '<output class="dvt-budget dvt-unused" role="status" data-testid="budget-reading">'
        "<span>No budget in use: the thresholds are those above.</span> "
        "<span>Move the slider to choose them by what an image may cost on average.</span></output>"
    )


def budget_source_html(card: Mapping[str, Any], gmacs: Sequence[float], is_stale: bool) -> str:
    """Below the budget slider: its two ends, and where its thresholds come from; `is_stale`: from other weights."""
    if "budgets" not in card:
        data = "the checkpoint's published curve"
    else:
        data = _data_of(card["budgets"]) if card["budgets"].get("data") else "the model's card"
    return (
        f'<div class="dvt-ends" aria-hidden="true"><span>{gflops(gmacs[0])}: first exit</span>'
        f"<span>{gflops(gmacs[-1])}: full cascade</span></div>"
        f'<p class="dvt-small">Thresholds and expectations are from {data}'
        f"{', with other weights than the model has now' if is_stale else ''}. "
        "One image may cost more than the average.</p>"
    )

"""A model's test set, for the page: what every exit says of all its images, and some of the images to look at."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from app.inference import Predictor
from app.routing import thresholds_text
from app.views import PROMISED_ON, RISKS, gflops, percent
from dvt_tf import datasets, preprocessing
from dvt_tf.calibration import budget_points, thresholds_for_budget
from dvt_tf.checkpoints import weights_digest
from dvt_tf.results import ExitResults, exit_results, load_results
from dvt_tf.scenes import SCENES
from dvt_tf.thresholds import Operating, operate

SHOWN = 300  # images in the gallery
SIDE = 48  # pixels of a thumbnail
SPRITE_COLUMNS = 20
SPRITE_QUALITY = 82  # of WebP
COMPUTED = 1000  # images that are run where no results are kept
BATCH = 50
BUDGETS = (0.25, 0.5, 0.75)  # shares of the full cost that can be chosen at once
SHORT_RISKS = {"disagreement": "other answers", "accuracy_drop": "new errors"}

OnBatch = Callable[[int], None]  # is told the number of images of each batch


@dataclasses.dataclass(frozen=True)
class Preset:
    """Thresholds to choose at once. thresholds: K-1. name, detail: two short lines. title: all there is to say."""

    name: str
    thresholds: list[float]
    detail: str
    title: str


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images of a split, in the order of its results.

    labels: (N,) int32, in the card's classes. thumbnails: (G, SIDE, SIDE, 3) uint8, of the images that are shown.
    read: an image's index -> the contents of a file with it.
    """

    labels: np.ndarray
    thumbnails: np.ndarray
    read: Callable[[int], bytes]


@dataclasses.dataclass(frozen=True, eq=False)
class TestSet:
    """A model on its test set.

    results: of all N images, with labels. shown: (G,) int, which of them are in the gallery. sprite: their thumbnails
    in one picture, `SPRITE_COLUMNS` a row, as a data URL. curve: what the card's thresholds for budgets do on these
    images, cheapest first. alone: (cost, top-1) of every exit alone. beside: the same of other models, by name.
    """

    __test__ = False  # pytest must not take it for a test

    model: str
    class_names: Sequence[str]
    token_grids: Sequence[int]
    results: ExitResults
    shown: np.ndarray
    sprite: str
    curve: Sequence[Operating]
    alone: Sequence[tuple[float, float]]
    beside: Mapping[str, Sequence[tuple[float, float]]]
    presets: Sequence[Preset]
    read: Callable[[int], bytes]

    def image_bytes(self, index: int) -> bytes:
        """Test image `index`, 0 to N-1, as the contents of an image file: the file itself where there is one.

        Raises:
            ValueError: there is no such image, or its file is gone.
        """
        if not 0 <= index < len(self.results):
            raise ValueError(f"{self.results.where} has {len(self.results):,} images, and none is number {index}")
        try:
            return self.read(index)
        except OSError as error:
            raise ValueError(f"image {index} of {self.results.where} cannot be read any more: {error}") from error


class TestSets:
    """The test sets of a page's models, each made when it is first asked for.

    Args:
        predictors: the models. data: SPEC[@SPLIT]s; a model takes the first that has its classes, and one that knows
            an embedded data set takes that if none does. results: files of `dvt evaluate --out`, which spare running
            a model.
        beside: summaries of other models, to compare with, by name.
    """

    __test__ = False

    def __init__(
        self,
        predictors: Sequence[Predictor],
        data: Sequence[str] = (),
        results: Sequence[Path] = (),
        beside: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.predictors: Mapping[str, Predictor] = {predictor.name: predictor for predictor in predictors}
        self._data, self._files, self._beside = tuple(data), tuple(results), dict(beside or {})
        self._locks = {name: threading.Lock() for name in self.predictors}
        self._made: dict[str, TestSet] = {}

    def data_of(self, name: str) -> str | None:
        """The data of a model; None where there is none.

        Raises:
            ValueError: data was given, and it has other classes than the model. FileNotFoundError: it is not there.
        """
        predictor, fault = self.predictors[name], None
        for data in (*self._data, *datasets.embedded_for(predictor.card)):
            try:
                _check_fits(data, predictor.card)
            except (ValueError, FileNotFoundError) as error:
                fault = fault or error
                continue
            return data
        if fault is not None:
            raise fault
        return None

    def of(
        self, name: str, on_start: Callable[[int], None] | None = None, on_batch: OnBatch | None = None
    ) -> TestSet | None:
        """The test set of a model, made once; None where there is no data for it.

        Args:
            on_start: is told how many images at most will be run, if any must be. on_batch: how many were, each time.

        Raises:
            ValueError, FileNotFoundError: its data or a file of results is at fault.
        """
        with self._locks[name]:
            data = None if name in self._made else self.data_of(name)
            if data is not None:
                self._made[name] = self._make(self.predictors[name], data, on_start, on_batch)
            return self._made.get(name)

    def image_bytes(self, name: str, index: int) -> bytes:
        """Test image `index` of a model's test set, as `TestSet.image_bytes`; raises as `of` does too."""
        found = self.of(name)
        if found is None:
            raise ValueError(f"there is no test set for {name} on this page")
        return found.image_bytes(index)

    def _make(
        self, predictor: Predictor, data: str, on_start: Callable[[int], None] | None, on_batch: OnBatch | None
    ) -> TestSet:
        results = kept_results(predictor, self._files, data)
        if results is None:
            if on_start is not None:
                on_start(COMPUTED)
            results = computed_results(predictor, data, COMPUTED, on_batch)
        return assemble(predictor, results, data, self._beside)


def kept_results(predictor: Predictor, files: Sequence[Path], data: str | None = None) -> ExitResults | None:
    """The first of these files' results that are of this very model, and of this data if any is named; None if none is.

    Raises:
        FileNotFoundError, ValueError: a file is not there, or is no file of results.
    """
    if not files:
        return None
    wanted = None if data is None else "@".join(_parsed(data))
    weights = weights_digest(predictor.model)
    for path in files:
        results = load_results(path)
        if results.about.get("weights") == weights and wanted in (None, results.where):
            return results
    return None


def computed_results(
    predictor: Predictor, data: str, limit: int = COMPUTED, on_batch: OnBatch | None = None
) -> ExitResults:
    """Runs the whole cascade over at most `limit` images of the data's test split.

    Raises:
        ValueError, FileNotFoundError: the data cannot be read, or has other classes than the model.
    """
    spec, split = _parsed(data)
    batches = datasets.load(spec, split, predictor.card, BATCH, limit=limit)
    try:
        return exit_results(predictor.model, batches, on_batch, spec, split)
    except tf.errors.InvalidArgumentError as error:
        message = datasets.damaged_image_message(error)
        if message is None:
            raise
        raise ValueError(message) from error


def assemble(
    predictor: Predictor,
    results: ExitResults,
    data: str,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> TestSet:
    """Joins a model's results with the images that they are of.

    Args:
        results: of the data's split, or of as many of its images as `datasets.load` with a limit gives.
        beside: summaries of other models (`dvt_tf.evaluation.read_summary`), by name; those on other data are left out.

    Raises:
        ValueError: the results have no labels or are not of these images. FileNotFoundError: the data is not there.
    """
    correct = results.correct  # raises without labels
    assert results.labels is not None
    shown = evenly(len(results))
    images = images_of(data, predictor.card, len(results), shown)
    if not np.array_equal(images.labels, results.labels):
        raise ValueError(f"the results of {results.where} are not of the images that {data} has now: labels differ")
    curve = [
        operate(results.confidences, correct, results.gmacs, np.asarray(values, np.float32))
        for _, _, values in budget_points(predictor.card)
    ]
    return TestSet(
        model=predictor.name,
        class_names=predictor.class_names,
        token_grids=predictor.config.token_grids,
        results=results,
        shown=shown,
        sprite=sprite_url(images.thumbnails),
        curve=sorted(curve, key=lambda point: point.gmacs) if results.num_exits > 1 else [],
        alone=list(zip(map(float, results.gmacs), results.top1(), strict=True)),
        beside={
            name: [(float(at["gmacs"]), float(at["top1"])) for at in summary["exits"]]
            for name, summary in (beside or {}).items()
            if summary.get("data", results.where) == results.where
        },
        presets=presets_of(predictor.card, results.gmacs),
        read=images.read,
    )


def evenly(count: int, shown: int = SHOWN) -> np.ndarray:
    """Which of `count` images to show, (G,) int: `shown` of them from all over, or all of fewer."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).round().astype(int))


# Presets


def presets_of(card: Mapping[str, Any], gmacs: np.ndarray) -> list[Preset]:
    """What a card's calibrations offer: its own thresholds, the best for some budgets, and what it guarantees."""
    if len(gmacs) == 1:
        return []
    found = [_own_preset(card["thresholds"]), *_budget_presets(card, gmacs)]
    found += [_guaranteed_preset(entry) for entry in card.get("guarantees", ()) if entry.get("guarantee")]
    kept: list[Preset] = []
    for preset in found:
        if preset.thresholds not in [other.thresholds for other in kept]:
            kept.append(preset)
    return kept


def _own_preset(entry: Mapping[str, Any]) -> Preset:
    how = _promise(entry) or ("" if entry.get("method", "none") == "none" else f"{entry['method']}.")
    return _preset("The model's own", entry["values"], entry.get("expected", {}), how)


def _guaranteed_preset(entry: Mapping[str, Any]) -> Preset:
    promise = entry["guarantee"]
    risk = SHORT_RISKS.get(promise["risk"], promise["risk"])
    name = f"Promise: ≤ {promise['level'] * 100:g}% {risk}"
    return _preset(name, entry["values"], entry.get("expected", {}), _promise(entry))


def _budget_presets(card: Mapping[str, Any], gmacs: np.ndarray) -> list[Preset]:
    points = budget_points(card)
    if not points:
        return []
    measure, full = card["budgets"]["measure"] if "budgets" in card else "top1", float(gmacs[-1])
    known = max(accuracy for _, accuracy, _ in points)
    target = 1.0 if measure == "agreement" else card["thresholds"].get("expected", {}).get("full_top1", known)
    of_budget = []
    for share in BUDGETS:
        thresholds, note = thresholds_for_budget(card, gmacs, share * full)
        if note:  # below what the cascade can cost
            continue
        cost, accuracy = next((cost, accuracy) for cost, accuracy, values in points if values == thresholds)
        how = f"The most accurate within {share * 100:g}% of the full cost."
        of_budget.append(_preset(f"{share * 100:g}% of the cost", thresholds, {"gmacs": cost, measure: accuracy}, how))
    keeping = [point for point in points if point[1] >= target - 1e-9]
    if keeping:
        cost, accuracy, thresholds = keeping[0]
        how = "The cheapest that is as accurate as running everything, where it was chosen."
        whole = _preset("As good as the last exit", thresholds, {"gmacs": cost, measure: accuracy}, how)
        of_budget = [preset for preset in of_budget if preset.thresholds != whole.thresholds] + [whole]
    return of_budget


def _preset(name: str, thresholds: Sequence[float], expected: Mapping[str, Any], how: str) -> Preset:
    values = [float(value) for value in thresholds]
    said = [thresholds_text(values)]
    told = [f"Thresholds {thresholds_text(values)}."]
    if "gmacs" in expected:
        said.append(f"{gflops(expected['gmacs'])} GFLOPs")
        told.append(f"Expected where they were chosen: {gflops(expected['gmacs'])} GFLOPs")
        if "top1" in expected:
            told[-1] += f", top-1 {html.unescape(percent(expected['top1']))}"
        elif "agreement" in expected:
            told[-1] += f", {html.unescape(percent(expected['agreement']))} answered as by the full cascade"
        told[-1] += "."
    return Preset(name, values, " · ".join(said), " ".join([how, *told] if how else told))


def _promise(entry: Mapping[str, Any]) -> str:
    promise = entry.get("guarantee", {})
    if promise.get("risk") not in RISKS:
        return ""
    images = PROMISED_ON.get(promise.get("about"), "images")
    return (
        f"Promised with {promise['confidence'] * 100:g}% confidence: at most {promise['level'] * 100:g}% of {images} "
        f"{RISKS[promise['risk']]} (Learn-then-Test)."
    )


# Images


def images_of(data: str, card: Mapping[str, Any], count: int, shown: np.ndarray) -> Images:
    """The first `count` images of the data's split (of a folder: from all over it), as `datasets.load` orders them.

    Raises:
        ValueError: there are not so many, or one to be shown is damaged. FileNotFoundError: the data is not there.
    """
    spec, split = _parsed(data)
    table = datasets.label_table(datasets.class_names(spec, split), card, spec)
    kind = datasets.parse_spec(spec).kind
    if kind in datasets.EMBEDDED:
        return _scene_images(kind, split, table, count, shown)
    if kind == "folder":
        return _folder_images(spec, split, table, card, count, shown)
    names: list[bytes] = []
    classes: list[int] = []
    kept: dict[int, bytes] = {}
    for contents, name, number in datasets.file_batches(spec, split, BATCH, count).as_numpy_iterator():
        kept |= {len(names) + i: contents[i] for i in range(len(name)) if len(names) + i in shown}
        names.extend(name)
        classes.extend(number)
    _check_count(data, len(names), count)
    thumbnails = _thumbnails_of([kept[index] for index in shown], [str(names[index]) for index in shown], card)

    def read(index: int) -> bytes:
        if index in kept:
            return kept[index]
        [(contents, _, _)] = datasets.file_batches(spec, split, 1, count).skip(index).take(1).as_numpy_iterator()
        return contents[0]

    return Images(table[classes], thumbnails, read)


def _scene_images(kind: str, split: str, table: np.ndarray, count: int, shown: np.ndarray) -> Images:
    _check_count(f"{kind}@{split}", SCENES[split], count, fewer=True)
    draw = datasets.EMBEDDED[kind].split_scenes
    scenes = draw(split, count)
    kept = {int(index): scenes.images[index] for index in shown}

    def read(index: int) -> bytes:
        pixels = kept.get(index)
        return _png(draw(split, count).images[index] if pixels is None else pixels)

    return Images(table[scenes.labels], np.stack([thumbnail(pixels) for pixels in kept.values()]), read)


def _folder_images(
    spec: str, split: str, table: np.ndarray, card: Mapping[str, Any], count: int, shown: np.ndarray
) -> Images:
    paths, classes = datasets.folder_files(datasets.parse_spec(spec).location, split)
    _check_count(f"{spec}@{split}", len(paths), count, fewer=True)
    if count < len(paths):  # some of them: which, only the batches say
        batches = datasets.file_batches(spec, split, BATCH, count).as_numpy_iterator()
        place = {os.fsencode(path): index for index, path in enumerate(paths)}
        chosen = [place[name] for _, names, _ in batches for name in names]
        paths, classes = [paths[i] for i in chosen], [classes[i] for i in chosen]
    number = {name: index for index, name in enumerate(datasets.class_names(spec, split))}
    names = [os.fsencode(paths[index]) for index in shown]
    contents = datasets.read_files(np.array(names, object)).tolist()
    thumbnails = _thumbnails_of(contents, [str(paths[index]) for index in shown], card)
    return Images(table[[number[name] for name in classes]], thumbnails, lambda index: paths[index].read_bytes())


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 -> (SIDE, SIDE, 3) uint8."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def sprite_url(thumbnails: np.ndarray) -> str:
    """(G, SIDE, SIDE, 3) uint8 -> all of them in one WebP picture, row by row, as a data URL."""
    rows = -(-len(thumbnails) // SPRITE_COLUMNS)
    cells = np.zeros((rows * SPRITE_COLUMNS, SIDE, SIDE, 3), np.uint8)
    cells[: len(thumbnails)] = thumbnails
    sheet = cells.reshape(rows, SPRITE_COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet.reshape(rows * SIDE, SPRITE_COLUMNS * SIDE, 3))
    picture.save(buffer, format="WEBP", quality=SPRITE_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _thumbnails_of(contents: Sequence[bytes], names: Sequence[str], card: Mapping[str, Any]) -> np.ndarray:
    found = []
    for start in range(0, len(contents), BATCH):
        pixels, valid = preprocessing.decode_and_crop(tf.constant(list(contents[start : start + BATCH])), card)
        if not np.all(valid.numpy()):
            damaged = names[start + int(np.argmin(valid.numpy()))]
            raise ValueError(f"damaged or unreadable image in the data: {damaged}")
        found += [thumbnail(image) for image in np.clip(np.rint(pixels.numpy()), 0, 255).astype(np.uint8)]
    return np.stack(found)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _parsed(data: str) -> tuple[str, str]:
    """SPEC[@SPLIT] -> SPEC and its split, which is test unless another is named."""
    spec = datasets.parse_spec(data)
    return datasets.without_split(spec), spec.split or "test"


def _check_fits(data: str, card: Mapping[str, Any]) -> None:
    """Raises ValueError or FileNotFoundError where the data is not there or its classes are not the card's."""
    spec, split = _parsed(data)
    datasets.label_table(datasets.class_names(spec, split), card, spec)


def _check_count(data: str, there: int, wanted: int, fewer: bool = False) -> None:
    if there < wanted or (there > wanted and not fewer):
        raise ValueError(f"the results are of {wanted:,} images, and {data} has {there:,}: they are of other data")

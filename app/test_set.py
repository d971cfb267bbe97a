"""A model's test set, for the page: what every exit says of all its images, and some of the images to look at."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.inference import Predictor
from app.test_images import BATCH, evenly, images_of, parsed, sprite_url
from app.threshold_presets import Preset, presets_of
from dvt_tf import datasets
from dvt_tf.calibration import budget_points
from dvt_tf.checkpoints import weights_digest
from dvt_tf.results import ExitResults, exit_results, load_results
from dvt_tf.thresholds import Operating, operate

COMPUTED = 1000  # images that are run where no results are kept

OnBatch = Callable[[int], None]  # is told the number of images of each batch


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
    wanted = None if data is None else "@".join(parsed(data))
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
    spec, split = parsed(data)
    batches = datasets.load(spec, split, predictor.card, BATCH, limit=limit)
    try:
        return exit_results(predictor.model, batches, on_batch, spec, split)
    except tf.errors.OpError as error:
        message = datasets.damaged_data_message(error)
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


def _check_fits(data: str, card: Mapping[str, Any]) -> None:
    """Raises ValueError or FileNotFoundError where the data is not there or its classes are not the card's."""
    spec, split = parsed(data)
    datasets.label_table(datasets.class_names(spec, split), card, spec)

"""What every exit of a cascade says of every image of a data set: run once, kept in a file, read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import weights_digest
from dvt_tf.cost import count_macs
from dvt_tf.files import written_whole

FORMAT = "dvt_tf exit results 1"
TOP_LOGITS = 16  # logits kept of every image at every exit, the largest


@dataclasses.dataclass(frozen=True, eq=False)
class ExitResults:
    """What every exit said of every image.

    confidences: (N, K) float32, largest softmax probability. predictions: (N, K) int32. gmacs: (K,) float64, cumulative
    cost in 10^9 multiply-accumulates.
    top_logits: (N, K, M) float32, the M largest logits from the largest down, M being 16 or all of fewer classes.
    rest: (N, K) float32, log-sum-exp of the other logits; minus infinity where there are none.
    labels: (N,) int32. in_top5: (N, K) bool. label_logits: (N, K) float32, of the right class. All three are None where
    the images have no labels.
    sources: (N,) int32, what an image was made of, where several were made of one; None where each stands for itself.
    about: the model's name and weights, the data and its split, as plain strings.
    """

    confidences: np.ndarray
    predictions: np.ndarray
    gmacs: np.ndarray
    top_logits: np.ndarray
    rest: np.ndarray
    num_classes: int
    labels: np.ndarray | None = None
    in_top5: np.ndarray | None = None
    label_logits: np.ndarray | None = None
    sources: np.ndarray | None = None
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.confidences)

    @property
    def num_exits(self) -> int:
        """One per Transformer."""
        return self.confidences.shape[1]

    @property
    def correct(self) -> np.ndarray:
        """(N, K) bool.

        Raises:
            ValueError: the images have no labels.
        """
        if self.labels is None:
            raise ValueError(f"{self.where} has no labels, and what is right there cannot be told")
        return self.predictions == self.labels[:, None]

    @property
    def where(self) -> str:
        """The data and its split, as a person writes it: `digits@test`."""
        return f"{self.about.get('data', 'the data')}@{self.about.get('split', '')}".removesuffix("@")

    def top1(self) -> list[float]:
        """Share of right answers at each exit."""
        return [float(share) for share in self.correct.mean(0)]

    def top5(self) -> list[float]:
        """Share of images whose label is among the five likeliest classes, at each exit."""
        assert self.in_top5 is not None, "no labels"
        return [float(share) for share in self.in_top5.mean(0)]

    def take(self, rows: np.ndarray) -> ExitResults:
        """These rows alone, by index or mask."""
        changes = {name: getattr(self, name)[rows] for name in _PER_IMAGE if getattr(self, name) is not None}
        return dataclasses.replace(self, **changes)


_PER_IMAGE = (*("confidences", "predictions", "top_logits", "rest", "labels", "in_top5", "label_logits", "sources"),)
_DTYPES = {
    **dict.fromkeys(("confidences", "top_logits", "rest", "label_logits"), np.float32),
    **dict.fromkeys(("predictions", "labels", "sources"), np.int32),
    "in_top5": np.bool_,
    "gmacs": np.float64,
}
_OPTIONAL = ("labels", "in_top5", "label_logits", "sources")


def exit_results(
    model: DynamicVisionTransformer,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    on_batch: Callable[[int], None] | None = None,
    data: str = "",
    split: str = "",
    labelled: bool = True,
    sources: np.ndarray | None = None,
) -> ExitResults:
    """Runs the full cascade once over (images (B, S, S, 3) normalised, labels (B,)).

    Args:
        on_batch: called with the number of images after each batch, for a progress bar.
        data, split: what the images are, for `ExitResults.about`.
        labelled: False where the labels mean nothing.
        sources: (N,) what each image was made of, if several are of one.

    Raises:
        ValueError: there is not one image, or a label that the model has no class for.
    """
    classes = model.config.num_classes
    most = min(TOP_LOGITS, classes)

    @tf.function(reduce_retracing=True)
    def run(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        logits = tf.stack(list(model(images, training=False).values()), 1)  # (B, K, C)
        own = tf.gather(logits, labels, axis=2, batch_dims=1)  # (B, K)
        in_top5 = tf.reduce_sum(tf.cast(logits > own[..., None], tf.int32), -1) < 5
        confidences = tf.reduce_max(tf.nn.softmax(logits), -1)
        ordered = tf.sort(logits, direction="DESCENDING")
        rest = tf.reduce_logsumexp(ordered[..., most:], -1)
        return confidences, tf.argmax(logits, -1, output_type=tf.int32), ordered[..., :most], rest, own, in_top5

    parts = []
    for images, labels in batches:
        labels = tf.cast(labels, tf.int32) if labelled else tf.zeros(tf.shape(images)[:1], tf.int32)
        if tf.reduce_any((labels < 0) | (labels >= classes)):
            raise ValueError(f"the data has labels outside 0..{classes - 1}, the classes of this model")
        parts.append((*(part.numpy() for part in run(images, labels)), labels.numpy()))
        if on_batch is not None:
            on_batch(len(parts[-1][-1]))
    if not parts:
        raise ValueError("the data has no image to evaluate")
    confidences, predictions, top_logits, rest, own, in_top5, all_labels = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    with_labels = {"labels": all_labels, "in_top5": in_top5, "label_logits": own} if labelled else {}
    return ExitResults(
        confidences=confidences,
        predictions=predictions,
        gmacs=np.asarray(count_macs(model)) / 1e9,
        top_logits=top_logits,
        rest=rest,
        num_classes=classes,
        sources=sources,
        about={
            "model": str(model.card.get("name") or ""),
            "weights": weights_digest(model),
            "precision": str(getattr(model.dtype_policy, "name", model.dtype_policy)),
            "data": data,
            "split": split,
        },
        **with_labels,
    )


def save_results(results: ExitResults, path: Path) -> None:
    """Writes results as a safetensors file, whole or not at all."""
    arrays = {name: getattr(results, name) for name in _DTYPES if getattr(results, name) is not None}
    about = {"about": dict(results.about), "num_classes": results.num_classes}
    contents = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={"format": FORMAT, "results": json.dumps(about)},
    )
    with written_whole(path) as temporary:
        temporary.write_bytes(contents)


def load_results(path: Path, model: DynamicVisionTransformer | None = None) -> ExitResults:
    """Reads what `save_results` wrote.

    Args:
        model: the model that they must be of, by its weights.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, no results, or those of another model.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file of results in it, such as results_calibration.safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"results file {str(path)!r} does not exist")
    try:
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a mapping
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a readable results file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds no exit results of this format ({FORMAT}); dvt evaluate --out writes them")
    missing = [name for name in _DTYPES if name not in arrays and name not in _OPTIONAL]
    wrong = [name for name, array in arrays.items() if array.dtype != _DTYPES.get(name)]
    if missing or wrong:
        raise ValueError(f"{path} is damaged: {', '.join(missing + wrong)} is missing or of a wrong type")
    try:
        kept = json.loads(metadata["results"])
        results = ExitResults(**arrays, num_classes=int(kept["num_classes"]), about=dict(kept["about"]))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: what it says of itself cannot be read ({error!r})") from error
    _check_shapes(results, path)
    if model is not None and results.about.get("weights") != weights_digest(model):
        theirs, ours = results.about.get("weights", "")[:12], weights_digest(model)[:12]
        of = results.about.get("model") or "a model"
        raise ValueError(f"{path} holds results of other weights ({of}, {theirs}) than this model's ({ours})")
    return results


def _check_shapes(results: ExitResults, path: Path) -> None:
    count, exits = results.predictions.shape if results.predictions.ndim == 2 else (0, 0)
    shapes: dict[str, tuple[int, ...]] = {"confidences": (count, exits), "rest": (count, exits)}
    shapes |= {
        "label_logits": (count, exits),
        "in_top5": (count, exits),
        "labels": (count,),
        "sources": (count,),
        "gmacs": (exits,),
    }
    shapes |= {"top_logits": (count, exits, min(TOP_LOGITS, results.num_classes))}
    for name, shape in shapes.items():
        array = getattr(results, name)
        if array is not None and array.shape != shape:
            raise ValueError(f"{path} is damaged: {name} is {array.shape} and should be {shape}")
    if not count:
        raise ValueError(f"{path} holds no image")
    if not np.all(np.isfinite(results.confidences)):
        image, k = np.argwhere(~np.isfinite(results.confidences))[0]
        raise ValueError(f"{path}: the confidence of image {image} at exit {k + 1} is not a number")

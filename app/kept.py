"""What is known of test sets without running a model: results and summaries, given or kept with the project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.inference import Predictor
from app.test_set import TestSets
from dvt_tf import datasets
from dvt_tf.evaluation import read_summaries, read_summary
from dvt_tf.results import load_results

KEPT = Path(__file__).parents[1] / "docs" / "results"  # not there where only the packages are installed
# Trained on 560,000 images, the bundled cascade on 944,000 (docs/results.md).
BASELINES = {
    "digits_static_7": "7×7 alone, trained less",
    "digits_static_10": "10×10 alone, trained less",
    "digits_static_14": "14×14 alone, trained less",
    "digits_no_reuse": "cascade without reuse, trained less",
}


def kept_sets(
    predictors: Sequence[Predictor],
    data: Sequence[str] = (),
    results: Sequence[Path] = (),
    beside: Sequence[Path] = (),
) -> TestSets:
    """The test sets of a page: with the files that were given, and those that the project keeps of its own model.

    Args:
        data: SPEC[@SPLIT]s. results: files of `dvt evaluate --out`. beside: its summaries, of other models.

    Raises:
        ValueError, FileNotFoundError: a file is not there or is none of these, or a SPEC makes no sense.
    """
    for spec in data:
        datasets.parse_spec(spec)
    for path in results:
        load_results(path)
    summaries = read_summaries(beside)
    if not summaries:
        paths = {name: KEPT / f"{stem}_summary.json" for stem, name in BASELINES.items()}
        summaries = {name: read_summary(path) for name, path in paths.items() if path.is_file()}
    return TestSets(predictors, data, [*results, *sorted(KEPT.glob("*_test.safetensors"))], summaries)

"""What is kept of the cells of a study, and what a folder of them refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cascades import small_config
from tests.training.outcomes import IMAGES, MADE_BY, outcome, rows_of
from training import cells
from training.cells import Cell

pytestmark = pytest.mark.one_stack


def test_an_outcome_is_read_as_it_was_kept(tmp_path: Path) -> None:
    kept = dataclasses.replace(outcome((0.4, 0.7), 5), labels={"test": "0123456789abcdef"})
    cells.save_outcome(kept, tmp_path / "cells" / "two_none_seed5.safetensors")
    [(cell, read)] = cells.outcomes(tmp_path, [Cell("two_none", 5), Cell("two_none", 6)]).items()
    assert cell == Cell("two_none", 5)
    for split in cells.SPLITS:
        np.testing.assert_array_equal(read.correct[split], kept.correct[split])
        np.testing.assert_allclose(read.confidences[split], kept.confidences[split], atol=1.6e-5)
        np.testing.assert_array_equal(read.confidences[split] == 1, kept.confidences[split] == 1)
    assert (read.images, read.seconds, read.gmacs.tolist()) == (640, 12.0, [0.02, 0.05])
    assert (read.made_by, read.labels) == (MADE_BY, kept.labels)
    assert (tmp_path / "cells" / "two_none_seed5.safetensors").stat().st_size < 8000


@pytest.mark.parametrize("contents", [b"", b"no safetensors at all"])
def test_a_damaged_outcome_is_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "cells" / "two_none_seed0.safetensors"
    path.parent.mkdir()
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"two_none_seed0.* is no result of a study's cell .*remove it"):
        cells.outcomes(tmp_path, [Cell("two_none", 0)])


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    cell, other = Cell("two_none", 0), Cell("two_none", 1)
    found = {cell: outcome((0.4, 0.7), 0), other: outcome((0.4, 0.7), 1)}
    described: dict[str, Any] = {**MADE_BY["described"], "config": {"dim": 8}}
    cells.refuse_others(tmp_path, found, {cell: described, other: described})
    changed = {**described, "images": 641}
    with pytest.raises(
        ValueError, match=r"other images \(of two_none_seed1: images: 640 there, 641 now\); give another"
    ):
        cells.refuse_others(tmp_path, found, {cell: described, other: changed})
    wider = {**described, "config": {"dim": 9}}
    with pytest.raises(ValueError, match=r"other config \(of two_none_seed0: "):
        cells.refuse_others(tmp_path, found, {cell: wider, other: described})


def test_a_field_that_a_configuration_got_later_had_its_default_for_a_report_alone(tmp_path: Path) -> None:
    now = {"config": small_config().to_dict()}
    before = {"config": {key: value for key, value in now["config"].items() if key != "linear_init"}}
    kept = dataclasses.replace(outcome((0.5, 0.6), 0), made_by={**MADE_BY, "described": before})
    found = {Cell("two_none", 0): kept}
    cells.refuse_others(tmp_path, found, {Cell("two_none", 0): now}, report=True)
    with pytest.raises(ValueError, match="holds a study with other config"):
        cells.refuse_others(tmp_path, found, {Cell("two_none", 0): now})
    changed = {"config": small_config(linear_init="glorot").to_dict()}
    with pytest.raises(ValueError, match="holds a study with other config"):
        cells.refuse_others(tmp_path, found, {Cell("two_none", 0): changed}, report=True)


def test_cells_were_scored_on_as_many_images(tmp_path: Path) -> None:
    cell, other = Cell("two_none", 0), Cell("two_none", 1)
    whole = outcome((0.4, 0.7), 0)
    fewer = dataclasses.replace(whole, correct={**whole.correct, "test": whole.correct["test"][1:]})
    described = dict.fromkeys((cell, other), MADE_BY["described"])
    with pytest.raises(
        ValueError, match=r"two_none_seed1 was scored on 400 and 399 images .*two_none_seed0 on 400 and"
    ):
        cells.refuse_others(tmp_path, {cell: whole, other: fewer}, described)


def test_cells_were_scored_on_the_same_images_as_far_as_labels_tell(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = {split: random.integers(0, 10, IMAGES) for split in cells.SPLITS}
    known = {split: cells.digest_of(labels) for split, labels in drawn.items()}
    swapped = {**known, "test": cells.digest_of(drawn["test"][::-1])}
    plain = outcome((0.4, 0.7), 0)
    found = {
        Cell("two_none", seed): dataclasses.replace(plain, labels=given)
        for seed, given in enumerate(({}, known, known))
    }
    described = {Cell("two_none", seed): MADE_BY["described"] for seed in range(4)}
    cells.refuse_others(tmp_path, found, described)  # one from before labels were kept goes with any
    found[Cell("two_none", 3)] = dataclasses.replace(plain, labels=swapped)
    with pytest.raises(ValueError, match="two_none_seed3 was scored on other test images than two_none_seed1"):
        cells.refuse_others(tmp_path, found, described)


def test_seconds_are_those_of_all_epochs() -> None:
    rows = [{"images": "100", "images_per_second": "50"}, {"images": "300", "images_per_second": "20"}]
    assert cells.seconds_of(rows) == 12.0


def test_the_results_are_one_table(tmp_path: Path) -> None:
    noted = dataclasses.replace(outcome((0.5, 0.6), 0), made_by={**MADE_BY, "processor": "avx2", "replicas": 2})
    found: dict[Cell, Any] = {Cell("two_none", 0): noted, Cell("alone_3", 1): outcome((0.8,), 1)}
    cells.write_results(tmp_path, found)
    first, second = rows_of(tmp_path / "results.csv")
    assert (first["configuration"], first["seed"], first["images"]) == ("two_none", "0", "640")
    assert (first["commit"], first["processor"], first["replicas"]) == ("0123456+", "avx2", "2")
    assert (second["processor"], second["replicas"]) == ("", "")  # not noted
    stopped = {**noted.made_by, "earlier": [{"git": {"commit": "fedcba9876"}}, {"git": {"commit": "fedcba9876"}}]}
    cells.write_results(tmp_path, {Cell("two_none", 0): dataclasses.replace(noted, made_by=stopped)})
    (resumed,) = rows_of(tmp_path / "results.csv")
    assert (resumed["commit"], resumed["processor"]) == ("fedcba9; 0123456+", "not noted; avx2")
    assert float(first["top1_2"]) == pytest.approx(found[Cell("two_none", 0)].top1()[1], abs=1e-6)
    assert (second["gmacs_1"], second["gmacs_2"]) == ("0.02", "")

"""The studies of the paper's appendix: that each row is the cascade it says, and what a study makes of results."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvt_tf.cost import count_macs
from dvt_tf.evaluation import budgets_between
from dvt_tf.presets import PRESETS
from dvt_tf.thresholds import choose, operate
from tests.cascades import small_config
from training import cells, study_plots, study_report
from training.cells import Cell, Outcome
from training.paired import Difference, paired_difference
from training.studies import CLAIMS, CONFIGURATIONS, STUDIES, Claim, configurations_of

pytestmark = pytest.mark.one_stack

IMAGES = 400
MADE_BY = {
    "described": {"images": 640, "config": {"dim": 8}, "data": "digits"},
    "versions": {"tensorflow": "2.15.1"},
    "git": {"commit": "0123456789abcdef", "changed": True},
}


@pytest.mark.parametrize("name", [name for name, one in CONFIGURATIONS.items() if one.published])
def test_the_rows_of_tables_11_to_13_cost_what_the_paper_says(name: str) -> None:
    config = PRESETS["dvt_t2t_vit_12"].config
    fields = CONFIGURATIONS[name].overrides(config)
    changed = dataclasses.replace(config, **{**fields, "token_grids": tuple(fields["token_grids"])})
    published = CONFIGURATIONS[name].published
    assert published is not None
    assert count_macs(changed)[-1] / 1e9 == pytest.approx(published.gmacs, abs=0.006)
    assert changed.token_grids == (7, 10)


def test_every_study_is_made_of_configurations_and_the_same_one_is_trained_once() -> None:
    assert list(STUDIES) == ["feature-location", "relationship-location", "relationship-source", "reuse", "curves"]
    for study in STUDIES.values():
        assert study.against in study.rows
        assert set(study.rows) <= set(CONFIGURATIONS)
    assert configurations_of(list(STUDIES)) == list(CONFIGURATIONS)
    assert len(configurations_of(["feature-location", "relationship-location"])) == 7
    compared = {name for claim in CLAIMS for name in (claim.more, claim.less, claim.base or claim.less)}
    assert compared <= set(CONFIGURATIONS)


def test_what_a_preset_cannot_be_is_refused() -> None:
    config = PRESETS["deit_small"].config
    with pytest.raises(ValueError, match="'no reuse' needs a cascade of 2 exits, and this one has 1"):
        CONFIGURATIONS["two_none"].overrides(config)
    assert CONFIGURATIONS["alone_1"].overrides(config) == {"token_grids": [14]}


def outcome(shares: tuple[float, ...], seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    confidences, correct = {}, {}
    for split in cells.SPLITS:
        hardness = random.random((IMAGES, 1))
        correct[split] = hardness < np.array(shares)
        confidences[split] = np.clip(1.1 - hardness - 0.05 * random.random((IMAGES, len(shares))), 0.1, 1.0).astype(
            np.float32
        )
    return Outcome(np.array([0.02, 0.05, 0.11])[: len(shares)], confidences, correct, 640, 12.0, MADE_BY)


def all_found(seeds: int = 3) -> dict[Cell, Outcome]:
    found = {}
    for seed in range(seeds):
        for number, (name, one) in enumerate(CONFIGURATIONS.items()):
            exits = one.exits or 1
            shares = tuple(0.5 + 0.01 * number + 0.1 * k for k in range(exits))
            found[Cell(name, seed)] = outcome(shares, seed)
    return found


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


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_tables_and_plots_come_out_of_what_is_kept(tmp_path: Path) -> None:
    found = all_found()
    study_report.write(tmp_path, list(STUDIES), found, "digits", np.arange(IMAGES) % 40)
    table = rows_of(tmp_path / "feature-location.csv")
    assert [row["what"] for row in table] == [CONFIGURATIONS[name].says for name in STUDIES["feature-location"].rows]
    last = [found[Cell("two_features_all", seed)].top1() for seed in range(3)]
    assert table[3]["exit 2"].startswith(f"{100 * np.mean(last, 0)[1]:.2f} ± {100 * np.std(last, 0, ddof=1)[1]:.2f}")
    assert (table[3]["seeds"], table[3]["paper, ImageNet: over 'no reuse'"]) == ("3", "+1.62")
    assert table[3]["exits alike"].count("±") == 1
    curves = rows_of(tmp_path / "curves.csv")
    assert [row["exits alike"] != "" for row in curves] == [True, True, False, False, False]
    assert [row["exit 2"] != "" for row in curves] == [True, True, False, True, False]  # one alone, under its exit
    points = rows_of(tmp_path / "curves_points.csv")
    assert {(row["configuration"], row["seed"]) for row in points} == {
        (name, seed) for name in ("three_both", "three_none") for seed in "012"
    }
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.count("![") == 5  # no histories, and so no plots of them
    assert report.count("Of these no history is kept") == 5
    assert "Trained with tensorflow 2.15.1." in report
    assert all(claim.says in report for claim in CLAIMS)
    for name in (*STUDIES,):
        plot = (tmp_path / f"{name}.png").read_bytes()
        assert plot.startswith(b"\x89PNG")


def test_the_report_says_what_processors_there_were(tmp_path: Path) -> None:
    found = all_found()
    study_report.write(tmp_path, ["feature-location"], found, "digits", None)
    assert "processors" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    first = next(iter(found))
    found[first] = dataclasses.replace(found[first], made_by={**MADE_BY, "processor": "avx2 avx512f"})
    study_report.write(tmp_path, ["feature-location"], found, "digits", None)
    told = f"not noted ({len(found) - 1} of {len(found)} runs); avx2 avx512f (1 of {len(found)} runs)."
    assert told in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_thresholds_of_a_curve_come_from_the_calibration_split_alone() -> None:
    generator = np.random.default_rng(0)
    right = generator.random((400, 2)) < (0.5, 0.8)
    sure = np.where(right, 0.9, 0.1) * generator.random((400, 2))
    gmacs = np.array([0.1, 0.3])
    # On the calibration split those that are sure are right, on the test split those that are not.
    told = Outcome(
        gmacs, {"calibration": sure, "test": 1 - sure}, {"calibration": right, "test": right}, 1, 1.0, MADE_BY
    )
    costs, shares = study_plots.budgeted(told)
    budgets = budgets_between(gmacs, len(costs)).tolist()
    for split, same in (("calibration", True), ("test", False)):
        chosen = choose(told.confidences[split], right, gmacs, budgets)
        points = [operate(told.confidences["test"], right, gmacs, one.thresholds) for one in chosen]
        assert ([(p.gmacs, p.accuracy) for p in points] == list(zip(costs, shares))) == same
    assert shares.mean() < np.mean([p.accuracy for p in points])  # than those chosen on the test split


def keep_histories(out: Path, found: Collection[Cell]) -> None:
    """Of exits 1 to K, an epoch of 320 images and another; the last exit is right on 20 % and 40 %, others on less."""
    (out / cells.HISTORIES).mkdir(parents=True)
    for cell in found:
        exits = CONFIGURATIONS[cell.configuration].exits or 1
        columns = [f"exit_{k + 1}_top1" for k in range(exits)]
        shares = [0.2 - 0.01 * (exits - 1 - k) for k in range(exits)]
        lines = [["epoch", "images", "loss", *columns, "val_exit_1_top1"]]
        lines += [[str(e), str(320 * e), "2.3", *(f"{e * share:.3f}" for share in shares), ""] for e in (1, 2)]
        text = "".join(",".join(line) + "\n" for line in lines)
        (out / cells.HISTORIES / f"{cell.name}.csv").write_text(text, encoding="utf-8")


def test_how_rows_learned_is_read_from_their_histories(tmp_path: Path) -> None:
    found = all_found(1)
    keep_histories(tmp_path, found)
    lines = study_plots.learned(tmp_path, found)
    assert lines == {cell: ([320.0, 640.0], [pytest.approx(20.0), pytest.approx(40.0)]) for cell in found}
    study_report.write(tmp_path, list(STUDIES), found, "digits", None)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in STUDIES:
        assert f"({name}_learning.png)" in report
        assert (tmp_path / f"{name}_learning.png").read_bytes().startswith(b"\x89PNG")
    assert "no history" not in report


def test_a_history_that_is_not_kept_is_named(tmp_path: Path) -> None:
    found = all_found(1)
    keep_histories(tmp_path, found.keys() - {Cell("two_features_deep", 0)})
    study_report.write(tmp_path, ["feature-location"], found, "digits", None)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "(feature-location_learning.png)" in report
    assert "Of these no history is kept: two_features_deep_seed0." in report


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.8), (0.8, 0.5)])
def test_exits_that_are_right_on_the_same_images_are_alike(shares: tuple[float, float]) -> None:
    one = outcome(shares, 0)  # the same hardness decides both
    assert study_report.likeness(one) == pytest.approx(1)
    own = one.correct["test"].copy()
    own[:, 1] = ~own[:, 0]
    assert study_report.likeness(dataclasses.replace(one, correct={"test": own})) < -0.2
    own[:, 1] = np.random.default_rng(1).random(IMAGES) < 0.5
    assert abs(study_report.likeness(dataclasses.replace(one, correct={"test": own}))) < 0.3
    own[:, 1] = True
    assert np.isnan(study_report.likeness(dataclasses.replace(one, correct={"test": own})))


def test_a_study_that_is_not_done_yet_shows_what_there_is(tmp_path: Path) -> None:
    found = {cell: one for cell, one in all_found(1).items() if cell.configuration in ("two_none", "two_features_deep")}
    study_report.write(tmp_path, ["feature-location", "reuse"], found, "digits", None)
    assert [row["seeds"] for row in rows_of(tmp_path / "feature-location.csv")] == ["1", "1"]
    told = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Not done, so that rows stand on different seeds: features, shallow half of the downstream blocks" in told
    assert not (tmp_path / "reuse.csv").exists()
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "[one seed]" in report
    assert "claims" not in report


def gap(mean: float, reach: float, t_reach: float) -> Difference:
    return Difference(mean, mean - reach, mean + reach, (mean,) * 3, mean - t_reach, mean + t_reach)


@pytest.mark.parametrize(
    ("fields", "most", "says"),
    [
        ((0.02, 0.01, 0.015), None, "holds here"),
        ((0.02, 0.01, 0.03), None, "not shown here: the difference is within the noise, which hides up to 5.0 points"),
        ((-0.02, 0.01, 0.015), None, "the opposite holds here"),
        ((0.004, 0.003, 0.0035), 1.0, "holds here"),
        ((0.001, 0.003, 0.0035), 1.0, "not shown here; if there is a gain, it is below 1 points"),
        ((0.02, 0.005, 0.006), 1.0, "more helps here, and not only slightly"),
        ((0.01, 0.005, 0.006), 1.0, "more helps here, but not shown to be slight"),
        ((0.004, 0.02, 0.02), 1.0, "not shown here"),
    ],
)
def test_verdicts(fields: tuple[float, float, float], most: float | None, says: str) -> None:
    assert study_report.verdict(Claim("", "", "", most), gap(*fields)) == says


def test_what_is_shown_needs_both_intervals() -> None:
    for reach, t_reach in ((0.01, 0.03), (0.03, 0.01)):
        told = study_report.verdict(Claim("", "", ""), gap(0.02, reach, t_reach))
        assert told == "not shown here: the difference is within the noise, which hides up to 5.0 points"


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_told_of_its_rows_at_the_second_exit(claim: Claim) -> None:
    random = np.random.default_rng(0)
    found = all_found()
    for cell, one in found.items():
        found[cell] = dataclasses.replace(one, correct={"test": random.random(one.correct["test"].shape) < 0.6})
    groups = np.arange(IMAGES) % 40

    def expected(more: str, less: str) -> str:
        right = [[found[Cell(name, seed)].correct["test"][:, 1] for seed in range(3)] for name in (more, less)]
        return study_report.show(paired_difference(right[0], right[1], groups))

    line = study_report.claim_line(claim, found, groups)
    assert line.startswith(f"{claim.says}: {expected(claim.more, claim.less)} points")
    mean = np.mean([found[Cell(claim.more, s)].top1()[1] - found[Cell(claim.less, s)].top1()[1] for s in range(3)])
    assert f": {100 * mean:+.2f} (" in line
    if claim.base:
        assert f"the one {expected(claim.more, claim.base)} and the other {expected(claim.less, claim.base)}" in line


def test_a_row_is_told_over_the_one_without_reuse_at_the_last_exit(tmp_path: Path) -> None:
    found, groups = all_found(), np.arange(IMAGES) % 40
    study_report.write(tmp_path, ["reuse"], found, "digits", groups)
    none, features, *_ = rows_of(tmp_path / "reuse.csv")
    right = [[found[Cell(name, seed)].correct["test"][:, 2] for seed in range(3)] for name in STUDIES["reuse"].rows[:2]]
    assert none["over 'no reuse', last exit"] == ""
    assert features["over 'no reuse', last exit"] == study_report.show(paired_difference(right[1], right[0], groups))


def test_fewer_than_three_seeds_are_no_verdict() -> None:
    single = Difference(0.02, 0.01, 0.03, (0.02,), -np.inf, np.inf)
    assert study_report.verdict(Claim("", "", ""), single) == "1 seed can say nothing about it"
    two = Difference(0.02, 0.01, 0.03, (0.02, 0.02), 0.01, 0.03)
    assert study_report.verdict(Claim("", "", ""), two) == "2 seeds can say nothing about it"
    claim, more = Claim("", "", "", base="two_none"), gap(0.02, 0.01, 0.015)
    assert study_report.verdict(claim, more, single) == "1 seed can say nothing about it"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((0.02, 0.01, 0.015), "holds here"),
        ((-0.02, 0.01, 0.015), "not shown here: it only does less harm"),
        ((0.01, 0.01, 0.015), "not shown here: whether it helps at all is within the noise"),
    ],
)
@pytest.mark.parametrize("most", [None, 5.0])
def test_less_harm_is_no_help(most: float | None, more: tuple[float, float, float], says: str) -> None:
    claim = Claim("", "", "", most, base="two_none")
    harm = gap(-0.06, 0.01, 0.015)
    assert study_report.verdict(claim, gap(0.02, 0.01, 0.015), gap(*more), harm) == says
    assert study_report.verdict(Claim("", "", "", 1.0, "two_none"), gap(0.02, 0.005, 0.006), gap(*more), harm) == (
        "more helps here, and not only slightly" if says == "holds here" else says
    )


@pytest.mark.parametrize(
    ("less", "says"),
    [
        ((0.02, 0.01, 0.015), "the opposite holds here"),
        ((-0.02, 0.01, 0.015), "not shown here: the other only does less harm"),
        ((0.01, 0.01, 0.015), "not shown here: whether the other helps at all is within the noise"),
    ],
)
def test_less_harm_refutes_nothing(less: tuple[float, float, float], says: str) -> None:
    claim = Claim("", "", "", base="two_none")
    assert study_report.verdict(claim, gap(-0.04, 0.01, 0.015), gap(-0.06, 0.01, 0.015), gap(*less)) == says


def test_the_results_are_one_table(tmp_path: Path) -> None:
    found: dict[Cell, Any] = {Cell("two_none", 0): outcome((0.5, 0.6), 0), Cell("alone_3", 1): outcome((0.8,), 1)}
    cells.write_results(tmp_path, found)
    first, second = rows_of(tmp_path / "results.csv")
    assert (first["configuration"], first["seed"], first["images"]) == ("two_none", "0", "640")
    assert first["commit"] == "0123456+"
    assert float(first["top1_2"]) == pytest.approx(found[Cell("two_none", 0)].top1()[1], abs=1e-6)
    assert (second["gmacs_1"], second["gmacs_2"]) == ("0.02", "")

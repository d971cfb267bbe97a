"""What a study makes of its results: tables, plots and a report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.training.outcomes import IMAGES, MADE_BY, all_found, keep_histories, outcome, rows_of
from training import study_plots, study_report, study_tables
from training.cells import Cell
from training.paired import paired_difference, show
from training.studies import CLAIMS, CONFIGURATIONS, STUDIES
from training.study_curves import budgeted, right_at

pytestmark = pytest.mark.one_stack


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
        (name, seed) for name in STUDIES["curves"].rows for seed in "012"
    }
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.count("![") == 5  # no histories, and so no plots of them
    assert report.count("Of these no history is kept") == 5
    assert "Trained with tensorflow 2.15.1." in report
    assert all(claim.says in report for claim in CLAIMS)
    for name in (*STUDIES,):
        plot = (tmp_path / f"{name}.png").read_bytes()
        assert plot.startswith(b"\x89PNG")


def test_the_legend_of_the_curves_says_how_many_seeds_each_stands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = STUDIES["curves"].rows
    found = {cell: one for cell, one in all_found(2).items() if cell.configuration in rows}
    del found[Cell("three_both", 1)], found[Cell("alone_3", 0)]
    curves = {cell: budgeted(one) for cell, one in found.items() if CONFIGURATIONS[cell.configuration].alone is None}
    told: list[str] = []

    def read(figure: Figure, path: Path, **_: object) -> None:
        told.extend(text.get_text() for legend in figure.legends for text in legend.get_texts())
        path.touch()

    monkeypatch.setattr(Figure, "savefig", read)
    study_plots.plot_budgets(tmp_path / "curves.png", rows, found, curves, "digits")
    assert sorted(told) == [
        "Transformer 1 alone (2 seeds)",
        "Transformer 2 alone (2 seeds)",
        "Transformer 3 alone (1 seed)",
        "cascade, features and relationships (1 seed)",
        "cascade, no reuse (2 seeds)",
    ]


def test_the_report_says_what_processors_there_were(tmp_path: Path) -> None:
    found = all_found()
    study_report.write(tmp_path, ["feature-location"], found, "digits", None)
    assert "processors" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    first = next(iter(found))
    found[first] = dataclasses.replace(found[first], made_by={**MADE_BY, "processor": "avx2 avx512f"})
    study_report.write(tmp_path, ["feature-location"], found, "digits", None)
    told = f"not noted ({len(found) - 1} of {len(found)} runs); avx2 avx512f (1 of {len(found)} runs)."
    assert told in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_report_says_where_batches_were_split(tmp_path: Path) -> None:
    found = all_found()
    first, second, *_ = found
    found[first] = dataclasses.replace(found[first], made_by={**MADE_BY, "replicas": 1})
    begun_before = {**MADE_BY, "replicas": 1, "earlier": [{"git": {}}]}  # by code that did not note it
    found[second] = dataclasses.replace(found[second], made_by=begun_before)
    assert found[second].replicas() == "not noted; 1"
    study_report.write(tmp_path, ["feature-location"], found, "digits", None)
    assert "Parts of a batch" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    found[second] = dataclasses.replace(found[second], made_by={**MADE_BY, "replicas": 2, "earlier": [{"replicas": 1}]})
    study_report.write(tmp_path, ["feature-location"], found, "digits", None)
    told = f"replica: not noted ({len(found) - 2} of {len(found)} runs); 1 (1 of {len(found)} runs); 1; 2 (1 of"
    assert told in (tmp_path / "report.md").read_text(encoding="utf-8")


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
    assert study_tables.likeness(one) == pytest.approx(1)
    own = one.correct["test"].copy()
    own[:, 1] = ~own[:, 0]
    assert study_tables.likeness(dataclasses.replace(one, correct={"test": own})) < -0.2
    own[:, 1] = np.random.default_rng(1).random(IMAGES) < 0.5
    assert abs(study_tables.likeness(dataclasses.replace(one, correct={"test": own}))) < 0.3
    own[:, 1] = True
    assert np.isnan(study_tables.likeness(dataclasses.replace(one, correct={"test": own})))


def test_a_study_that_is_not_done_yet_shows_what_there_is(tmp_path: Path) -> None:
    found = {cell: one for cell, one in all_found(1).items() if cell.configuration in ("two_none", "two_features_deep")}
    study_report.write(tmp_path, ["feature-location", "reuse"], found, "digits", None)
    assert [row["seeds"] for row in rows_of(tmp_path / "feature-location.csv")] == ["1", "1"]
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Not done, so that rows stand on different seeds: features, shallow half of the downstream blocks" in report
    assert not (tmp_path / "reuse.csv").exists()
    assert "[1 seed]" in report
    assert "claims" not in report


def test_a_row_is_told_over_the_one_without_reuse_at_the_first_and_the_last_exit(tmp_path: Path) -> None:
    found, groups = all_found(), np.arange(IMAGES) % 40
    study_report.write(tmp_path, ["reuse"], found, "digits", groups)
    none, features, *_ = rows_of(tmp_path / "reuse.csv")
    assert none["over 'no reuse', exit 1"] == none["over 'no reuse', last exit"] == ""
    for exit_, told in ((0, "exit 1"), (2, "last exit")):
        right = [[found[Cell(row, s)].correct["test"][:, exit_] for s in range(3)] for row in STUDIES["reuse"].rows[:2]]
        assert features[f"over 'no reuse', {told}"] == show(paired_difference(right[1], right[0], groups))


def test_cascades_are_set_beside_single_transformers_of_the_same_cost(tmp_path: Path) -> None:
    found, groups = all_found(), np.arange(IMAGES) % 40
    del found[Cell("alone_2", 0)]
    costs = {"alone_1": 0.02, "alone_2": 0.04, "alone_3": 0.3}  # at the first exit, between two, beyond the last
    for cell, one in found.items():
        if cell.configuration in costs:
            found[cell] = dataclasses.replace(one, gmacs=np.array([costs[cell.configuration]]))
    study_report.write(tmp_path, ["curves"], found, "digits", groups)
    lines = rows_of(tmp_path / "curves_at_equal_cost.csv")
    assert [line["GFLOPs"] for line in lines] == ["0.0200", "0.0400", "0.3000"]
    for line, (single, cost) in zip(lines, costs.items(), strict=True):
        seeds = [1, 2] if single == "alone_2" else [0, 1, 2]  # those that both have
        right = {
            row: [right_at(budgeted(found[Cell(row, s)]), cost) for s in range(3)]
            for row in ("three_both", "three_none")
        }
        alone = [found[Cell(single, s)].correct["test"][:, 0] for s in seeds]
        gap = paired_difference([right["three_both"][s] for s in seeds], alone, groups)
        assert line["features and relationships over the Transformer alone"] == show(gap)
        both = paired_difference(right["three_both"], right["three_none"], groups)
        assert line["features and relationships over no reuse"] == show(both)
        shares = 100 * np.array([found[Cell(single, s)].top1()[0] for s in seeds])
        assert line["its top-1"] == f"{shares.mean():.2f} ± {shares.std(ddof=1):.2f}"
        mean = 100 * np.mean([one.mean() for one in right["three_both"]])
        assert line["cascade, features and relationships"].startswith(f"{mean:.2f} ± ")
    assert "At the mean cost of each single Transformer" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_curves_without_single_transformers_or_cascades_have_no_table_of_equal_cost(tmp_path: Path) -> None:
    for kept in ("three", "alone"):
        found = {cell: one for cell, one in all_found(1).items() if cell.configuration.startswith(kept)}
        (tmp_path / kept).mkdir()
        study_report.write(tmp_path / kept, ["curves"], found, "digits", None)
        assert not (tmp_path / kept / "curves_at_equal_cost.csv").exists()
        assert (tmp_path / kept / "curves.png").read_bytes().startswith(b"\x89PNG")

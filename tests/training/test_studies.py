"""The studies of the paper's appendix: that each row is the cascade it says."""

from __future__ import annotations

import dataclasses

import pytest

from dvt_tf.cost import count_macs
from dvt_tf.presets import PRESETS
from training.studies import CLAIMS, CONFIGURATIONS, STUDIES, configurations_of

pytestmark = pytest.mark.one_stack


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

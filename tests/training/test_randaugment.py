"""RandAugment: the spec, what is drawn and how often, and whole pictures against Pillow's operations in that order."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests import images
from tests.pillow_operations import BLENDING, FILL, operate
from tests.seeds import off_by, over_seeds
from training.randaugment import NAMES, NOTHING, Arguments, Policy, arguments, draw_operation, parse_policy, randaugment

SPEC = "rand-m9-mstd0.5-inc1"


@dataclasses.dataclass
class Case:
    """What an operation takes at a level: `wanted` by its published range."""

    level: float
    negative: bool
    increasing: bool
    wanted: tuple[float, ...]


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        (SPEC, Policy(9.0, 0.5, True, 2)),
        ("rand-m7", Policy(7.0, 0.0, False, 2)),
        ("rand-n3-inc0-m10-mstd1", Policy(10.0, 1.0, False, 3)),
        ("rand-m4.5-mstd0", Policy(4.5, 0.0, False, 2)),
    ],
)
def test_specs_are_parsed(spec: str, policy: Policy) -> None:
    assert parse_policy(spec) == policy


@pytest.mark.parametrize(
    "spec",
    [
        *("", "rand", "m9", "rand-m", "rand-m-9", "rand-m11", "rand-m9-", "rand-m9-m9", "rand-m9-w0", "rand-m9-inc2"),
        *("rand-m9-n0", "rand-m9-n1.5", "rand-mstd0.5", "rand-m9-mstd-1", "augmix-m3", "rand-m9,mstd0.5", "Rand-m9"),
    ],
)
def test_a_spec_that_is_none_is_refused_with_one_that_is(spec: str) -> None:
    with pytest.raises(ValueError, match=r"is not understood; it is rand-mM.* as in rand-m9-mstd0\.5-inc1") as raised:
        parse_policy(spec)
    assert repr(spec) in str(raised.value)


@pytest.mark.parametrize(
    "case",
    [
        # degrees, bits, threshold, amount, factor, shear, share
        Case(9.0, False, True, (27.0, 1, 26, 99, 1.81, 0.27, 0.405)),
        Case(9.0, True, True, (-27.0, 1, 26, 99, 0.19, -0.27, -0.405)),
        Case(10.0, False, True, (30.0, 0, 0, 110, 1.9, 0.3, 0.45)),
        Case(0.0, True, True, (0.0, 4, 256, 0, 1.0, 0.0, 0.0)),
        Case(7.4, False, True, (22.2, 2, 67, 81, 1.666, 0.222, 0.333)),
        Case(9.0, True, False, (-27.0, 3, 230, 99, 1.72, -0.27, -0.405)),
        Case(0.0, False, False, (0.0, 0, 0, 0, 0.1, 0.0, 0.0)),
    ],
    ids=str,
)
def test_levels_mean_what_is_published(case: Case) -> None:
    found = arguments(tf.constant(case.level, tf.float64), tf.constant(case.negative), case.increasing)
    assert [value.numpy() for value in found] == pytest.approx(case.wanted)
    for name in ("bits", "threshold", "amount"):
        assert getattr(found, name).dtype == tf.int32


def test_half_of_the_operations_are_applied_each_as_often_at_levels_around_nine() -> None:
    count = 6000
    drawn = over_seeds(lambda seed: draw_operation(seed, parse_policy(SPEC), "random"), count)
    applied = drawn.which != NOTHING
    assert off_by(applied.mean(), 0.5, count) < 3.5
    shares = np.bincount(drawn.which[applied], minlength=len(NAMES)) / applied.sum()
    assert len(shares) == len(NAMES) == 15
    assert max(off_by(share, 1 / 15, applied.sum()) for share in shares) < 3.5
    for choices in (drawn.negative, drawn.bicubic):
        assert off_by(choices.mean(), 0.5, count) < 3.5
    assert drawn.level.max() == 10.0
    for level in (8.0, 8.5, 9.0, 9.5, 10.0):
        assert off_by((drawn.level < level).mean(), NormalDist(9.0, 0.5).cdf(level), count) < 3.5
    # Whatever is drawn from one seed is independent of the rest.
    columns = np.stack([applied, drawn.level, drawn.negative, drawn.bicubic]).astype(float)
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.05


def test_levels_are_cut_to_their_range_and_constant_without_deviation() -> None:
    wide = over_seeds(lambda seed: draw_operation(seed, Policy(5.0, 100.0), "bilinear"), 100)
    assert wide.level.min() == 0.0
    assert wide.level.max() == 10.0
    fixed = over_seeds(lambda seed: draw_operation(seed, Policy(7.0), "bicubic"), 20)
    assert set(fixed.level) == {7.0}
    assert not wide.bicubic.any()
    assert fixed.bicubic.all()


def test_draws_are_the_same_everywhere() -> None:
    drawn = [draw_operation(tf.constant([5, number]), parse_policy(SPEC), "random") for number in range(6)]
    assert [int(one.which) for one in drawn] == [15, 1, 12, 15, 0, 15]
    assert [float(one.level) for one in drawn] == pytest.approx(
        [9.518973650732399, 8.411641880333908, 9.20045085084672, 8.467490838504661, 9.316125875755661, 8.64821826348778]
    )
    assert [bool(one.negative) for one in drawn] == [True, False, False, False, True, False]


def test_pictures_go_through_the_drawn_operations_as_through_pillows() -> None:
    pixels = np.asarray(images.photo(1).resize((60, 48)))
    policy = Policy(9.0, 0.5, True, 1)
    count = 150

    def both(seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Its size is not known while the graph is made.
        unknown = tf.reshape(tf.constant(pixels), tf.concat([tf.shape(seed) * 0 + pixels.shape[:2], [3]], 0))
        changed = randaugment(unknown, seed, policy, FILL, "random")
        drawn = draw_operation(tf.random.experimental.stateless_fold_in(seed, 0, alg="philox"), policy, "random")
        return changed, drawn, arguments(drawn.level, drawn.negative, True)

    changed, drawn, taken = over_seeds(both, count)
    for row in range(count):
        if drawn.which[row] == NOTHING:
            np.testing.assert_array_equal(changed[row], pixels)
            continue
        name = NAMES[drawn.which[row]]
        reference = operate(name, pixels, argument_of(name, taken, row), bool(drawn.bicubic[row]))
        assert np.abs(changed[row].astype(int) - reference.astype(int)).max() <= 1, name
    assert set(drawn.which) == set(range(len(NAMES) + 1))


def argument_of(name: str, taken: Arguments, row: int) -> Any:
    """Which of the arguments an operation takes."""
    fields = {"Rotate": "degrees", "Posterize": "bits", "Solarize": "threshold", "SolarizeAdd": "amount"}
    fields |= dict.fromkeys(BLENDING, "factor") | dict.fromkeys(("ShearX", "ShearY"), "shear")
    fields |= dict.fromkeys(("TranslateX", "TranslateY"), "share")
    return getattr(taken, fields[name])[row].item() if name in fields else None


def test_two_operations_are_drawn_apart_and_follow_the_seed() -> None:
    pixels = tf.constant(np.asarray(images.picture()))
    policy = parse_policy(SPEC)
    one = over_seeds(lambda seed: randaugment(pixels, seed, policy._replace(operations=1), FILL), 60)
    two = over_seeds(lambda seed: randaugment(pixels, seed, policy, FILL), 60)
    again = randaugment(pixels, tf.constant([11, 7]), policy, FILL)
    np.testing.assert_array_equal(two[7], again)
    untouched = [(rows == pixels.numpy()).all((1, 2, 3)).mean() for rows in (one, two)]
    # About half and a quarter stay as they are.
    assert 0.3 < untouched[0] < 0.7
    assert 0.08 < untouched[1] < 0.45
    assert untouched[1] < untouched[0]


def test_what_comes_in_from_outside_has_the_colour_given() -> None:
    policy = Policy(10.0, 0.0, True, 1)
    found = over_seeds(lambda seed: randaugment(tf.zeros([20, 20, 3], tf.uint8), seed, policy, (9, 8, 7)), 40)
    assert (found == [9, 8, 7]).all(-1).any()

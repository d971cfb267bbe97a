"""Valid thresholds, how people write them, and who leaves where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvt_tf.exit_rule import NEVER, check_thresholds, format_thresholds, parse_threshold, route


def test_what_is_above_one_is_stored_as_never() -> None:
    # The second above one and the largest are none of float32's numbers.
    checked = check_thresholds([0.0, 1.0, 1.5, 1.00000001, 1e39, 2.0], 7)
    assert checked.dtype == np.float32
    assert checked.tolist() == [0.0, 1.0, NEVER, NEVER, NEVER, NEVER]
    assert NEVER == 2.0


def test_one_row_for_all_or_one_each() -> None:
    assert check_thresholds([0.5, 0.25], 3).shape == (2,)
    assert check_thresholds(np.zeros((4, 2)), 3).shape == (4, 2)
    assert check_thresholds([], 1).shape == (0,)
    assert check_thresholds(np.zeros((0, 2)), 3).shape == (0, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, float("nan")], "finite and at least 0"),
        ([0.5, float("inf")], "finite and at least 0"),
        ([-0.1, 0.5], "finite and at least 0"),
        ([0.5], r"must be \(2,\) or \(batch, 2\) for 3 exits, not \(1,\)"),
        ([0.5, 0.5, 0.5], "for 3 exits"),
        (0.5, "for 3 exits"),
        ([[[0.5, 0.5]]], "for 3 exits"),
        (["high", "low"], "must be numbers"),
        (None, "thresholds"),
        ([[0.5, 0.5], [0.5]], "must be numbers"),
    ],
)
def test_bad_thresholds_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_thresholds(values, 3)


def test_the_message_names_what_was_checked() -> None:
    with pytest.raises(ValueError, match="the card's thresholds must be finite"):
        check_thresholds([-1.0, 0.5], 3, name="the card's thresholds")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.7", 0.7), ("0", 0.0), ("1", 1.0), (" .5 ", 0.5), ("1e-3", 1e-3), ("never", NEVER), (" Never ", NEVER)],
)
def test_a_threshold_as_people_write_it(text: str, value: float) -> None:
    assert parse_threshold(text) == value


@pytest.mark.parametrize("text", ["-0.1", "1.01", "2", "nan", "inf", "70%", "", "high", "0,7", "nevermore"])
def test_anything_else_is_refused_with_what_it_may_be(text: str) -> None:
    with pytest.raises(ValueError, match="a number from 0 to 1, or the word never") as caught:
        parse_threshold(text)
    assert repr(text) in str(caught.value)


def test_thresholds_as_people_read_them() -> None:
    assert format_thresholds([0.5, 2.0, 0.12345]) == "0.5, never, 0.123"
    # What is nearly 1 is not 1.
    assert format_thresholds([1.0, 0.9996, 0.9999999, float(np.nextafter(1.0, 0.0))]) == (
        "1, 0.9996, 0.9999999, 0.99999999999999989"
    )


def test_who_leaves_where() -> None:
    confidences = [[0.9, 0.1, 0.1], [0.7, 0.5, 0.1], [0.69, 0.6, 0.99], [0.1, 0.49, 0.2]]
    exits = route(confidences, [0.7, 0.5])
    assert exits.dtype == np.int32
    assert exits.tolist() == [1, 1, 2, 3]  # reaching a threshold exactly is leaving
    assert route(confidences, [0.0, 0.0]).tolist() == [1, 1, 1, 1]
    assert route(confidences, [NEVER, NEVER]).tolist() == [3, 3, 3, 3]
    assert route(confidences, [NEVER, 0.0]).tolist() == [2, 2, 2, 2]
    assert route(confidences, [[0.95, 0.0], [0.0, 0.0], [1.5, 0.61], [0.1, 0.0]]).tolist() == [2, 1, 3, 1]


def test_a_confidence_of_exactly_one_meets_a_threshold_of_one() -> None:
    assert route([[1.0, 1.0]], [1.0]).tolist() == [1]
    assert route([[1.0, 1.0]], [np.nextafter(np.float32(1), np.float32(2))]).tolist() == [2]


def test_no_images_and_one_exit() -> None:
    assert route(np.zeros((0, 3)), [0.5, 0.5]).tolist() == []
    assert route(np.zeros((2, 1)), []).tolist() == [1, 1]


def test_confidences_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"confidences must be \(images, exits\)"):
        route([0.5, 0.5], [0.5])


UNIT = st.floats(0, 1, width=32)


@given(
    st.integers(1, 5).flatmap(
        lambda k: st.tuples(
            hnp.arrays(np.float32, st.tuples(st.integers(0, 8), st.just(k)), elements=UNIT),
            st.lists(st.one_of(UNIT, st.just(NEVER)), min_size=k - 1, max_size=k - 1),
        )
    )
)
def test_routing_is_the_rule_image_by_image(case: tuple[np.ndarray, list[float]]) -> None:
    confidences, thresholds = case
    expected = []
    for row in confidences:
        leaves = [k + 1 for k, threshold in enumerate(thresholds) if row[k] >= np.float32(threshold)]
        expected.append(leaves[0] if leaves else len(row))
    assert route(confidences, thresholds).tolist() == expected
    rows = np.tile(np.float32(thresholds), (len(confidences), 1))
    assert route(confidences, rows.reshape(len(confidences), len(thresholds))).tolist() == expected

"""What `benchmarks.training` times."""

from __future__ import annotations

import pytest

from benchmarks.training import Case, step_of


@pytest.mark.long
@pytest.mark.parametrize("remat", [False, True])
def test_what_is_timed_of_training_is_a_step_that_learns(remat: bool) -> None:
    step = step_of("dvt_tiny_digits", Case("", {"depth": 1, "token_grids": (7, 10)}, remat), "float32", 4)
    losses = [step() for _ in range(12)]
    assert losses[-1] < losses[0] < 6

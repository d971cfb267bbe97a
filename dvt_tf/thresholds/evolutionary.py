"""The paper's search: thresholds by a genetic algorithm that maximises accuracy under a budget (SciPy's solver)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dvt_tf.exit_rule import NEVER
from dvt_tf.thresholds.operating import TOLERANCE

_POPULATION = 15  # per threshold
_GENERATIONS = 60
_SEED = 0


def evolutionary_thresholds(
    confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, budgets: Sequence[float]
) -> list[np.ndarray]:
    """Thresholds of high accuracy within each budget, found by differential evolution; the same ones every time.

    The search moves in ranks of confidence rather than in confidences, which crowd near 1. A population in which no
    member keeps to the budget is answered by leaving at the first exit, always.

    Args, returns: as `exact_thresholds`, for any number of exits.
    """
    from scipy.optimize import differential_evolution  # slow to import, and seldom needed

    count, exits = confidences.shape
    right = np.ascontiguousarray(correct.T)  # (K, N)
    columns = np.ascontiguousarray(confidences.T)  # (K, N)
    ranked = np.sort(confidences[:, :-1], axis=0)  # ascending

    def thresholds_of(ranks: np.ndarray) -> np.ndarray:
        # 0 lets all of them leave; the last part of the range none, wide enough to be found.
        place = np.minimum((ranks * (count + 1 + count // 50)).astype(int), count)
        values = np.where(place == 0, 0, ranked[np.minimum(place, count - 1), np.arange(exits - 1)])
        return np.where(place == count, np.float32(NEVER), values).astype(np.float32)

    def accuracy_and_cost(thresholds: np.ndarray) -> tuple[float, float]:
        going, hits, cost = np.ones(count, bool), 0, 0.0
        for k in range(exits):
            leaves = going & (columns[k] >= thresholds[k]) if k + 1 < exits else going
            hits += np.count_nonzero(leaves & right[k])
            cost += float(gmacs[k]) * np.count_nonzero(leaves)
            going = going & ~leaves
        return hits / count, cost / count

    def search(budget: float) -> np.ndarray:
        limit = budget * (1 + TOLERANCE)

        def loss(ranks: np.ndarray) -> float:
            accuracy, cost = accuracy_and_cost(thresholds_of(ranks))
            # Beyond the budget nothing else counts; within it the cheaper of two equals is better.
            return 1.0 + cost / gmacs[-1] if cost > limit else -accuracy + 1e-9 * cost / gmacs[-1]

        found = differential_evolution(
            loss,
            [(0.0, 1.0)] * (exits - 1),
            popsize=_POPULATION,
            maxiter=_GENERATIONS,
            tol=0.0,
            polish=False,
            seed=_SEED,
            x0=np.zeros(exits - 1),  # every image leaves at the first exit: within any budget
        )
        return thresholds_of(found.x)

    return [search(budget) for budget in budgets]

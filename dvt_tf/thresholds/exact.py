"""The best thresholds there are for a budget, for two and three exits: nothing on the data it is given does better.

Only the order of confidences matters, so a threshold is a cut between two neighbouring levels of confidence; and of
these cuts only those just above a level where leaving may lose something: past any other one only wins, and pays less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dvt_tf.thresholds.operating import TOLERANCE, Levels
from dvt_tf.thresholds.prefix_tree import PrefixTree


def exact_thresholds(
    confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, budgets: Sequence[float]
) -> list[np.ndarray]:
    """Thresholds of the highest accuracy whose mean cost is within each budget; of equals, the cheapest.

    Args:
        confidences: (N, K) with K of 2 or 3. correct: (N, K) bool. gmacs: (K,) cumulative cost.
        budgets: each at least gmacs[0].

    Returns:
        One (K - 1,) float32 array per budget.
    """
    solve = {2: _two_exits, 3: _three_exits}[confidences.shape[1]]
    return solve(confidences, correct.astype(np.int64), np.asarray(gmacs, np.float64), np.asarray(budgets, np.float64))


def _two_exits(confidences: np.ndarray, gains: np.ndarray, gmacs: np.ndarray, budgets: np.ndarray) -> list[np.ndarray]:
    levels = Levels.of(confidences[:, 0])
    size = len(levels.values)
    counts = np.concatenate([[0], np.cumsum(np.bincount(levels.of_image, minlength=size))])  # (L + 1,) for every cut
    change = np.bincount(levels.of_image, weights=gains[:, 0] - gains[:, 1], minlength=size)
    gain = np.concatenate([[0], np.cumsum(change)])
    cost = (counts * gmacs[0] + (len(confidences) - counts) * gmacs[1]) / len(confidences)
    found = []
    for budget in budgets:
        within = np.flatnonzero(cost <= budget * (1 + TOLERANCE))
        best = within[gain[within] == gain[within].max()][-1]  # the last is the cheapest
        found.append(np.array([levels.threshold(int(best))], np.float32))
    return found


def _three_exits(
    confidences: np.ndarray, gains: np.ndarray, gmacs: np.ndarray, budgets: np.ndarray
) -> list[np.ndarray]:
    """Lowers the first threshold cut by cut; a tree over the second exit's blocks answers for the second threshold."""
    count = len(confidences)
    first, second = Levels.of(confidences[:, 0]), Levels.of(confidences[:, 1])
    # Blocks of the second exit's levels, each begun by a level where some image is right at the last exit alone.
    starts = _starts(second, gains[:, 1] < gains[:, 2])
    block = np.searchsorted(starts, second.of_image, side="right") - 1  # (N,)
    change = gains[:, 1] - gains[:, 2]
    tree = PrefixTree(
        np.bincount(block, minlength=len(starts)).tolist(),
        np.bincount(block, weights=change, minlength=len(starts)).astype(int).tolist(),
    )
    edges = [*starts.tolist(), len(second.values)]  # levels above each end of a block
    cuts = _starts(first, gains[:, 0] < gains[:, 1:].max(1))
    order = np.argsort(first.of_image, kind="stable")
    ends = np.searchsorted(first.of_image[order], [*cuts, len(first.values)])  # images that leave above each cut
    blocks, changes = block[order].tolist(), change[order].tolist()
    gain_first = np.concatenate([[0], np.cumsum(gains[order, 0])]).tolist()
    gain_last = np.concatenate([[0], np.cumsum(gains[order, 2])]).tolist()

    most = (budgets * (1 + TOLERANCE) * count).tolist()  # what all images together may cost
    saved = float(gmacs[2] - gmacs[1])
    best = [(-1, 0.0)] * len(most)  # gain, and cost with its sign turned
    chosen = [(0, 0)] * len(most)  # levels that leave at each exit
    gone = 0
    for cut, end in zip([*cuts.tolist(), len(first.values)], ends.tolist(), strict=True):
        while gone < end:
            tree.take(blocks[gone], changes[gone])
            gone += 1
        base = gain_first[gone] + gain_last[count] - gain_last[gone]
        bound = base + tree.best
        cost = gone * gmacs[0] + (count - gone) * gmacs[2]  # with nobody leaving at exit 2
        for which, limit in enumerate(most):
            if bound < best[which][0]:
                continue
            needed = math.ceil((cost - limit) / saved)
            if needed > tree.count:
                continue
            gain = tree.best_with(needed)
            if base + gain < best[which][0]:
                continue
            leading, images = tree.longest(gain)
            found = (base + gain, images * saved - cost)
            if found > best[which]:
                best[which], chosen[which] = found, (cut, edges[leading])
    return [np.array([first.threshold(a), second.threshold(b)], np.float32) for a, b in chosen]


def _starts(levels: Levels, loses: np.ndarray) -> np.ndarray:
    """The first level, and every one that holds an image which loses by leaving there; `loses` is (N,) bool."""
    return np.unique([0, *levels.of_image[loses]])

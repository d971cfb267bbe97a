"""Random per-exit results, tied or not, all that thresholds can do to a few of them, and whole populations."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from dvt_tf.exit_rule import NEVER

GMACS = np.array([1.0, 3.0, 8.0])
CLASSES = 10


def distinct_results(count: int, exits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct confidences (N, K), and correctness that grows with them and with the exit."""
    random = np.random.default_rng(seed)
    confidences = np.stack([random.permutation(count) for _ in range(exits)], 1)
    confidences = ((confidences + 0.5) / count).astype(np.float32)
    return confidences, _correct(confidences, random)


def tied_results(count: int, exits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences (N, K) of a few values, a third of them exactly 1 as float32 softmax gives them, and correctness."""
    random = np.random.default_rng(seed)
    values = np.array([0.0, 0.25, 0.5, np.nextafter(np.float32(1.0), np.float32(0.0)), 1.0], np.float32)
    confidences = random.choice(values, (count, exits), p=[0.1, 0.2, 0.2, 0.17, 0.33])
    return confidences, _correct(confidences, random)


def some_results(count: int, exits: int, seed: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tied or distinct ones."""
    return (tied_results if tied else distinct_results)(count, exits, seed)


def random_costs(exits: int, seed: int) -> np.ndarray:
    """Rising costs (K,) whose steps are no multiples of each other."""
    return np.cumsum(np.random.default_rng(seed).uniform(0.2, 3.0, exits))


def many_budgets(gmacs: np.ndarray, count: int) -> list[float]:
    """Budgets from the first exit's cost to beyond the last one's, among them costs that `count` images can have."""
    between = np.linspace(gmacs[0], gmacs[-1], 14)
    attained = gmacs[0] + (gmacs[-1] - gmacs[0]) * np.arange(1, min(count, 8)) / count
    return [*between.tolist(), *attained.tolist(), 1.5 * float(gmacs[-1])]


def all_outcomes(confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray) -> list[tuple[int, float]]:
    """Right answers and mean cost under every combination of thresholds there is, image by image.

    Only the confidences themselves can matter: a threshold between two of them acts as the upper one does.
    """
    outcomes = []
    for thresholds in itertools.product(*[[*set(column.tolist()), NEVER] for column in confidences.T[:-1]]):
        left = [
            next((k for k, threshold in enumerate(thresholds) if row[k] >= threshold), len(thresholds))
            for row in confidences.tolist()
        ]
        outcomes.append((sum(bool(correct[i, k]) for i, k in enumerate(left)), float(np.mean(gmacs[left]))))
    return outcomes


def best_within(outcomes: list[tuple[int, float]], budget: float) -> tuple[int, float]:
    """The most right answers at a mean cost within a budget, and the least cost of as many."""
    within = [(right, cost) for right, cost in outcomes if cost <= budget * (1 + 1e-9)]
    most = max(right for right, _ in within)
    return most, min(cost for right, cost in within if right == most)


def _correct(confidences: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return random.random(confidences.shape) < 0.3 + 0.5 * confidences + 0.1 * np.arange(confidences.shape[1])


class Population(NamedTuple):
    """confidences, predictions: (N, 3). labels, sources: (N,); as many images of one source as of any other."""

    confidences: np.ndarray
    predictions: np.ndarray
    labels: np.ndarray
    sources: np.ndarray


def calm_population(count: int, seed: int, per_source: int = 1, likeness: float = 0.0) -> Population:
    """Three exits, each better than the one before, with confidences that tell right answers from wrong ones.

    Args:
        per_source: images of one source. likeness: the share of an image's difficulty that it has from its source.
    """
    random = np.random.default_rng(seed)
    sources = np.repeat(np.arange(count // per_source), per_source)
    shared, own = random.normal(size=count // per_source)[sources], random.normal(size=count)
    difficulty = np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own
    # What the exits see of an image has a part in common, so the answers of one image are alike.
    seen = np.sqrt(0.6) * random.normal(size=(count, 1)) + np.sqrt(0.4) * random.normal(size=(count, 3))
    score = np.array([0.9, 1.5, 1.9]) - 1.2 * difficulty[:, None] + 0.6 * seen
    noise = random.normal(scale=0.7, size=(count, 3))
    confidences = 0.1 + 0.9 / (1 + np.exp(-2.0 * (np.abs(score) + noise)))
    return _answered(confidences, score > 0, sources, random)


def overthinking_population(count: int, seed: int) -> Population:
    """Three exits; of one image in 25 the last is wrong and the others right, and a fifth of confidences are exactly 1.

    Leaving early is riskier in the middle than at the lowest confidences: no risk rises along one threshold.
    """
    random = np.random.default_rng(seed)
    kind = random.random(count)
    confidences = random.beta(4.0, 1.5, (count, 3))
    overthought = kind < 0.04
    right = random.random((count, 3)) < 0.97
    right[overthought] = [True, True, False]
    # Hard images: the first exit is mostly wrong with a middling confidence, and the second often.
    hard = kind > 0.7
    right[hard, 0] = random.random(hard.sum()) < 0.2
    right[hard, 1] = random.random(hard.sum()) < 0.6
    confidences[hard, :2] = random.beta(6.0, 4.0, (hard.sum(), 2))
    confidences[random.random((count, 3)) < 0.2 * ~hard[:, None]] = 1.0
    return _answered(confidences, right, np.arange(count), random)


def _answered(
    confidences: np.ndarray, right: np.ndarray, sources: np.ndarray, random: np.random.Generator
) -> Population:
    """With labels and, where an exit is wrong, mostly the same wrong answer."""
    count = len(right)
    labels = random.integers(0, CLASSES, count)
    usual, other = (random.integers(1, CLASSES, shape) for shape in ((count, 1), (count, 3)))
    off = np.where(random.random((count, 3)) < 0.7, usual, other)
    predictions = np.where(right, labels[:, None], (labels[:, None] + off) % CLASSES)
    return Population(confidences.astype(np.float32), predictions, labels, sources)

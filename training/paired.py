"""Differences between two configurations that were trained with the same seeds and scored on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 4000  # of the bootstrap
LEAST_SEEDS = 3  # to say something: two may agree by chance, and Student's t then says next to nothing
_AT_ONCE = 200  # draws
_INTERVAL = 0.95


class Difference(NamedTuple):
    """In share of right answers. low, high: 95 % bootstrap interval over seeds and images.

    by_seed: (S,) of each seed. t_low, t_high: 95 % interval of the mean by Student's t over the seeds, on these images:
    all that differs from seed to seed is noise, what other images would change is left out; infinite for one seed.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    t_low: float
    t_high: float


def paired_difference(
    more: Sequence[np.ndarray], less: Sequence[np.ndarray], groups: np.ndarray | None = None, draws: int = DRAWS
) -> Difference:
    """What `more` has over `less`.

    Args:
        more, less: of each seed, in the same order, (N,): which images are right, or how often, from 0 to 1.
        groups: (N,) what an image was made of, where several are of one; they are drawn together. None: each by itself.

    The bootstrap draws seeds, and of the images whole groups, with replacement, both at once (McCullagh, "Resampling
    and exchangeable arrays", 2000; Owen, "The pigeonhole bootstrap", 2007). With few seeds it understates what another
    seed would change, as Student's t does not; Student's t leaves out what other images would change. The two
    together hold the truth about as often as they say.
    """
    gaps = np.stack([np.asarray(a, np.float64) - np.asarray(b, np.float64) for a, b in zip(more, less, strict=True)])
    seeds, images = gaps.shape
    number = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(number, row) for row in gaps])  # (S, G)
    sizes = np.bincount(number).astype(np.float64)  # (G,)
    random = np.random.default_rng(0)
    own = random.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds  # (draws, S)
    means = np.empty(draws)
    for first in range(0, draws, _AT_ONCE):  # all weights at once would be 640 MB of 20,000 images
        part = slice(first, min(first + _AT_ONCE, draws))
        weights = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), part.stop - first)  # (draws, G)
        means[part] = ((weights @ sums.T) * own[part]).sum(1) / (weights @ sizes)
    low, high = np.quantile(means, [(1 - _INTERVAL) / 2, (1 + _INTERVAL) / 2])
    by_seed = gaps.mean(1)
    mean = float(by_seed.mean())
    reach = math.inf
    if seeds > 1:
        from scipy.stats import t

        reach = float(t.ppf((1 + _INTERVAL) / 2, seeds - 1) * by_seed.std(ddof=1) / math.sqrt(seeds))
    return Difference(mean, float(low), float(high), tuple(map(float, by_seed)), mean - reach, mean + reach)


def show(gap: Difference) -> str:
    """`+1.42 (0.90 to 1.95) [0.11 to 2.73; 3 seeds]`, in points; without Student's t for fewer than three seeds."""
    count = len(gap.by_seed)
    told = f"{100 * gap.t_low:.2f} to {100 * gap.t_high:.2f}; " if count >= LEAST_SEEDS else ""
    return f"{100 * gap.mean:+.2f} ({100 * gap.low:.2f} to {100 * gap.high:.2f}) [{told}{seeds_in_words(count)}]"


def seeds_in_words(count: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} seed{'' if count == 1 else 's'}"

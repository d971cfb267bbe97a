"""Prefix sums over a row of blocks whose images are taken away, and the best prefix that holds enough of them."""

from __future__ import annotations

from collections.abc import Sequence

_NOTHING = -(1 << 60)


class PrefixTree:
    """A binary tree over blocks; every node knows its images, their gain, and the best gain of its leading blocks.

    Taking an image away and asking each take a walk of log2(blocks) nodes.

    Args:
        counts: images in each block. gains: their summed gain.
    """

    def __init__(self, counts: Sequence[int], gains: Sequence[int]) -> None:
        size = 1
        while size < len(counts):
            size *= 2
        self._size = size
        padding = size - len(counts)
        self._counts = [0] * size + list(counts) + [0] * padding
        self._gains = [0] * size + list(gains) + [0] * padding
        # The best over prefixes of one block or more; blocks that are only padding end none.
        self._best = [0] * size + list(gains) + [_NOTHING] * padding
        for node in range(size - 1, 0, -1):
            self._join(node)

    def _join(self, node: int) -> None:
        left, right = 2 * node, 2 * node + 1
        self._counts[node] = self._counts[left] + self._counts[right]
        self._gains[node] = self._gains[left] + self._gains[right]
        self._best[node] = max(self._best[left], self._gains[left] + self._best[right])

    @property
    def count(self) -> int:
        """Images that are left."""
        return self._counts[1]

    @property
    def best(self) -> int:
        """The best gain of any number of leading blocks, none included."""
        return max(0, self._best[1])

    def take(self, block: int, gain: int) -> None:
        """Takes one image with this gain away from a block."""
        counts, gains, best = self._counts, self._gains, self._best
        node = self._size + block
        counts[node] -= 1
        gains[node] -= gain
        best[node] -= gain
        node >>= 1
        while node:
            left = 2 * node
            counts[node] -= 1
            gains[node] -= gain
            here, there = best[left], gains[left] + best[left + 1]
            best[node] = here if here > there else there
            node >>= 1

    def best_with(self, least: int) -> int:
        """The best gain of any number of leading blocks that hold at least `least` images.

        Raises:
            ValueError: there are not that many images.
        """
        counts, gains, best = self._counts, self._gains, self._best
        if least <= 0:
            return self.best
        if least > counts[1]:
            raise ValueError(f"{least} images were asked for and {counts[1]} are left")
        # Down to the block that completes the count; the prefixes beyond it hang off the way, to the right.
        node, before, found = 1, 0, _NOTHING
        while node < self._size:
            node *= 2
            if counts[node] >= least:
                found = max(found, before + gains[node] + best[node + 1])
            else:
                least -= counts[node]
                before += gains[node]
                node += 1
        return max(found, before + gains[node])

    def longest(self, gain: int) -> tuple[int, int]:
        """The longest row of leading blocks with a gain that `best_with` gave: how many blocks, and images in them."""
        if self._best[1] < gain:
            return 0, 0
        node, images = 1, 0
        while node < self._size:
            node *= 2
            # More than the gain can be there only in front of it, where there were not images enough.
            if self._gains[node] + self._best[node + 1] >= gain:
                gain -= self._gains[node]
                images += self._counts[node]
                node += 1
        return node - self._size + 1, images + self._counts[node]

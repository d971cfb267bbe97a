"""The names of classes: of the embedded data, and of ImageNet-1k with their WordNet ids.

Those of ImageNet are in imagenet_1k.tsv; NOTICE says where it comes from.
"""

from __future__ import annotations

import functools
from importlib import resources

DIGITS = tuple("0123456789")
OUTLINES = ("disc", "square", "triangle", "star", "cross")
PATTERNS = ("striped", "chequered", "dotted")
SHAPES = tuple(f"{pattern} {outline}" for outline in OUTLINES for pattern in PATTERNS)


def imagenet_1k() -> tuple[str, ...]:
    """The 1,000 names in class order, no two alike."""
    return tuple(name for _, name in _imagenet_1k_rows())


def imagenet_1k_synsets() -> tuple[str, ...]:
    """The WordNet ids in the same order, such as n01440764; ImageNet's folders are named by them."""
    return tuple(synset for synset, _ in _imagenet_1k_rows())


@functools.cache
def _imagenet_1k_rows() -> tuple[tuple[str, str], ...]:
    text = resources.files(__name__).joinpath("imagenet_1k.tsv").read_text(encoding="utf-8")
    rows = (line.partition("\t") for line in text.splitlines())
    return tuple((synset, name) for synset, _, name in rows)

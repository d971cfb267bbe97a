"""The names of ImageNet-1k's classes and their WordNet ids, from imagenet_1k.tsv; NOTICE says where it comes from."""

from __future__ import annotations

import functools
from importlib import resources


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

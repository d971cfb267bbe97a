"""The ablations of the paper's appendix, Tables 11 to 13, and the curves of Figures 11 and 12: what each trains.

Wang et al., 2021, appendix: T2T-ViT-12 on ImageNet, two exits of 7x7 and 10x10 tokens. Which blocks reuse, and which
give, is a field of a cascade's configuration; a configuration that two studies share is trained once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dvt_tf.presets import CascadeConfig


class Published(NamedTuple):
    """What the paper says of a configuration on ImageNet: top-1 in % at exits 1 and 2, and 10^9 multiply-adds at 2."""

    first: float
    second: float
    gmacs: float


class Configuration(NamedTuple):
    """What is trained.

    says: in a table. exits: how many grids of the preset, from the first on. alone: that grid (0-based) alone.
    reuse: fields of the cascade's configuration.
    """

    says: str
    exits: int = 0
    alone: int | None = None
    reuse: Mapping[str, str] = {}
    published: Published | None = None

    def overrides(self, config: CascadeConfig) -> dict[str, Any]:
        """Fields to change in a preset's configuration.

        Raises:
            ValueError: it has not so many grids.
        """
        grids = config.token_grids
        needed = self.exits if self.alone is None else self.alone + 1
        if len(grids) < needed:
            raise ValueError(f"{self.says!r} needs a cascade of {needed} exits, and this one has {len(grids)}")
        return {"token_grids": list(grids[:needed] if self.alone is None else grids[self.alone : needed]), **self.reuse}


class Study(NamedTuple):
    """A table: what it compares, against which of its rows, and the exits that it shows."""

    title: str
    rows: tuple[str, ...]
    against: str
    exits: int


def _two(
    says: str, published: Published, features: str = "none", relationships: str = "none", **more: str
) -> Configuration:
    return Configuration(
        says, 2, None, {"feature_reuse": features, "relationship_reuse": relationships, **more}, published
    )


def _three(says: str, features: str, relationships: str) -> Configuration:
    return Configuration(says, 3, None, {"feature_reuse": features, "relationship_reuse": relationships})


CONFIGURATIONS: dict[str, Configuration] = {
    "two_none": _two("no reuse", Published(70.08, 73.61, 1.37)),
    "two_features_shallow": _two(
        "features, shallow half of the downstream blocks", Published(69.67, 75.02, 1.40), "shallow"
    ),
    "two_features_deep": _two("features, deep half of the downstream blocks", Published(69.94, 74.57, 1.40), "deep"),
    "two_features_all": _two("features, all downstream blocks", Published(69.44, 75.23, 1.43), "all"),
    "two_relationships_shallow": _two(
        "relationships, shallow half of the downstream blocks", Published(69.72, 74.89, 1.40), relationships="shallow"
    ),
    "two_relationships_deep": _two(
        "relationships, deep half of the downstream blocks", Published(70.00, 73.68, 1.40), relationships="deep"
    ),
    "two_relationships_all": _two(
        "relationships, all downstream blocks", Published(69.50, 74.91, 1.41), relationships="all"
    ),
    "two_source_shallow": _two(
        "relationships of the shallow half of the upstream blocks",
        Published(69.93, 74.67, 1.40),
        relationships="all",
        relationship_source="shallow",
    ),
    "two_source_deep": _two(
        "relationships of the deep half of the upstream blocks",
        Published(69.55, 74.58, 1.40),
        relationships="all",
        relationship_source="deep",
    ),
    "three_none": _three("no reuse", "none", "none"),
    "three_features": _three("features", "all", "none"),
    "three_relationships": _three("relationships", "none", "all"),
    "three_both": _three("features and relationships", "all", "all"),
    **{f"alone_{number}": Configuration(f"Transformer {number} alone", alone=number - 1) for number in (1, 2, 3)},
}

STUDIES: dict[str, Study] = {
    "feature-location": Study(
        "Where features are reused (Table 11)",
        ("two_none", "two_features_shallow", "two_features_deep", "two_features_all"),
        "two_none",
        2,
    ),
    "relationship-location": Study(
        "Where relationships are reused (Table 12)",
        ("two_none", "two_relationships_shallow", "two_relationships_deep", "two_relationships_all"),
        "two_none",
        2,
    ),
    "relationship-source": Study(
        "Whose relationships are reused (Table 13)",
        ("two_none", "two_source_shallow", "two_source_deep", "two_relationships_all"),
        "two_none",
        2,
    ),
    "reuse": Study(
        "Which kind of reuse, three exits",
        ("three_none", "three_features", "three_relationships", "three_both"),
        "three_none",
        3,
    ),
    "curves": Study(
        "The cascade beside single Transformers (Figures 11 and 12)",
        ("three_both", "three_none", "alone_1", "alone_2", "alone_3"),
        "three_none",
        3,
    ),
}


class Claim(NamedTuple):
    """A claim of the paper as a difference at the second exit: what `more` has over `less`.

    most: in points, where the claim is that the difference is small as well. base: what the better of the two must be
    better than too, where the claim is about how much they help: doing less harm is no help.
    """

    says: str
    more: str
    less: str
    most: float | None = None
    base: str = ""


CLAIMS: tuple[Claim, ...] = (
    Claim("feature reuse helps the second exit", "two_features_all", "two_none"),
    Claim("relationship reuse helps the second exit", "two_relationships_all", "two_none"),
    Claim(
        "features matter more in shallow blocks than in deep ones",
        "two_features_shallow",
        "two_features_deep",
        base="two_none",
    ),
    Claim(
        "relationships matter more in shallow blocks than in deep ones",
        "two_relationships_shallow",
        "two_relationships_deep",
        base="two_none",
    ),
    Claim(
        "all source blocks help more than the shallow half, and only slightly, by less than a point",
        "two_relationships_all",
        "two_source_shallow",
        most=1.0,
        base="two_none",
    ),
    Claim(
        "all source blocks help more than the deep half, and only slightly, by less than a point",
        "two_relationships_all",
        "two_source_deep",
        most=1.0,
        base="two_none",
    ),
)


def configurations_of(studies: Sequence[str]) -> list[str]:
    """The names of what these studies train, each once, in the order of `CONFIGURATIONS`."""
    wanted = {name for study in studies for name in STUDIES[study].rows}
    return [name for name in CONFIGURATIONS if name in wanted]

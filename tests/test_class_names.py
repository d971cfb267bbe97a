"""The names of ImageNet's classes: in order, no two alike, and on the card of every model for ImageNet."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources

import pytest

from dvt_tf.cascade import DynamicVisionTransformer, preset_card
from dvt_tf.class_names import imagenet_1k, imagenet_1k_synsets
from dvt_tf.presets import PRESETS, get_preset

IMAGENET = ("dvt_t2t_vit_12", "dvt_t2t_vit_14", "dvt_deit_small", "t2t_vit_12", "t2t_vit_14", "deit_small")


def test_a_thousand_names_no_two_alike() -> None:
    names = imagenet_1k()
    assert len(names) == 1000
    assert len({name.casefold() for name in names}) == 1000  # Cardigan the dog, cardigan the jacket
    assert [name for name in names if not name.isprintable() or name != name.strip() or not name] == []


def test_synsets_are_a_thousand_in_their_own_order() -> None:
    synsets = imagenet_1k_synsets()
    assert len(synsets) == 1000
    assert list(synsets) == sorted(set(synsets))  # the order of ImageNet's folders, which is that of its classes
    assert [synset for synset in synsets if not re.fullmatch(r"n\d{8}", synset)] == []


@pytest.mark.parametrize(
    ("index", "synset", "name"),
    [
        (0, "n01440764", "tench"),
        (134, "n02012849", "crane (bird)"),
        (207, "n02099601", "golden retriever"),
        (264, "n02113186", "Cardigan Welsh corgi"),
        (281, "n02123045", "tabby"),
        (474, "n02963159", "cardigan"),
        (517, "n03126707", "crane (machine)"),
        (638, "n03710637", "maillot (tights)"),
        (639, "n03710721", "maillot (tank suit)"),
        (817, "n04285008", "sports car"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_known_classes(index: int, synset: str, name: str) -> None:
    assert (imagenet_1k_synsets()[index], imagenet_1k()[index]) == (synset, name)


def test_the_lists_are_files_of_the_package() -> None:
    folder = resources.files("dvt_tf.class_names")
    assert folder.joinpath("imagenet_1k.tsv").is_file()
    notice = folder.joinpath("NOTICE").read_text(encoding="utf-8")
    for name in ("crane (bird)", "crane (machine)", "maillot (tights)", "maillot (tank suit)", "Cardigan Welsh corgi"):
        assert name in notice
    assert "Licensed under the Apache License" in notice
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in notice


def test_every_imagenet_preset_names_its_classes() -> None:
    assert {name for name, preset in PRESETS.items() if preset.config.num_classes == 1000} == set(IMAGENET)
    for name in IMAGENET:
        card = preset_card(name, get_preset(name))
        assert card["class_names"] == list(imagenet_1k())
        assert card["class_ids"] == list(imagenet_1k_synsets())


def test_a_fresh_model_has_the_names_unless_it_has_other_classes() -> None:
    few = {"depth": 2, "dim": 12, "token_grids": (7,)}
    card = DynamicVisionTransformer.from_preset("dvt_deit_small", load_weights=False, **few).card
    assert card["class_names"][207] == "golden retriever"
    card = DynamicVisionTransformer.from_preset("dvt_deit_small", load_weights=False, num_classes=10, **few).card
    assert card["class_names"] == [f"class_{i}" for i in range(10)]
    assert "class_ids" not in card


def test_help_does_without_the_names() -> None:
    code = "import sys, dvt_tf.cli; dvt_tf.cli.main(['--help']); sys.exit('dvt_tf.class_names' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0

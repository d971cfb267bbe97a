"""A model folder is the same model on either generation of Keras, whichever saved it.

fixtures/saved_by_keras2 and fixtures/saved_by_keras3, and the .npz files beside them with what the models computed,
were made on the generation they are named after with

    python -m tests.test_saved_by_either_keras tests/fixtures
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvt_tf.cascade import PRETRAINED, DynamicVisionTransformer
from dvt_tf.checkpoints import CARD_FILE, WEIGHTS_FILE
from dvt_tf.presets import CascadeConfig
from tests.cascades import TOKENS_TO_TOKEN, small_cascade

FIXTURES = Path(__file__).parent / "fixtures"
FOLDERS = [FIXTURES / "saved_by_keras2", FIXTURES / "saved_by_keras3"]
GENERATION = int(metadata.version("keras").split(".")[0])


def save_fixture(folder: Path) -> None:
    """Writes saved_by_keras2 or saved_by_keras3 and its .npz into a folder."""
    model = small_cascade(seed=GENERATION, **TOKENS_TO_TOKEN)
    model.card["class_names"][0] = "Übergröße"
    model.card["thresholds"] = {"values": [0.7], "method": "given", "data": ""}
    model.card["figures"] = {"test": {"top1": [1 / 3, 0.1]}}
    model.save_to_preset(folder / f"saved_by_keras{GENERATION}")
    pixels = np.random.default_rng(GENERATION).integers(0, 256, (2, 28, 28, 3), np.uint8)
    logits = {name: value.numpy() for name, value in model(as_input(pixels)).items()}
    np.savez_compressed(folder / f"saved_by_keras{GENERATION}.npz", pixels=pixels, **logits)


def as_input(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels -> float32 of [-1, 1)."""
    return pixels.astype(np.float32) / 128 - 1


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_computes_what_it_computed_where_it_was_saved(folder: Path) -> None:
    model = DynamicVisionTransformer.from_preset(folder)
    assert model.card["class_names"][0] == "Übergröße"
    with np.load(folder.with_suffix(".npz")) as saved:
        logits = model(as_input(saved["pixels"]))
        assert set(saved) == {"pixels", *logits}
        for name, value in logits.items():
            assert np.ptp(saved[name]) > 1
            np.testing.assert_allclose(value, saved[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("folder", [*FOLDERS, PRETRAINED / "dvt_tiny_digits"], ids=lambda folder: folder.name)
def test_saved_again_it_is_the_same_to_the_byte(folder: Path, tmp_path: Path) -> None:
    DynamicVisionTransformer.from_preset(folder).save_to_preset(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS_FILE).read_bytes() == (folder / WEIGHTS_FILE).read_bytes()
    card = read_card(folder)
    # A card that is older than a field of the configuration is given the field's default.
    assert read_card(tmp_path / "again") == {**card, "config": CascadeConfig.from_dict(card["config"]).to_dict()}


def read_card(folder: Path) -> Any:
    return json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    save_fixture(Path(sys.argv[1]))

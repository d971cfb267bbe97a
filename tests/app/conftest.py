"""What the page's tests share: a model that was saved and loaded, and a picture to give it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.inference import Predictor, load_all
from tests.app.models import digits_model


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "fresh_digits"
    digits_model().save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def digits_predictor(digits_folder: Path) -> Predictor:
    return load_all([str(digits_folder)])[0]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG file of noise, wider than high."""
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (120, 160, 3), np.uint8)).save(path)
    return path

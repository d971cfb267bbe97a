"""Recipes: every shipped one loads, and every fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.recipe import RECIPES, Recipe, load_recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
@pytest.mark.parametrize("smoke", [False, True])
def test_every_shipped_recipe_loads(name: str, smoke: bool) -> None:
    recipe = load_recipe(name, smoke)
    assert recipe.steps == recipe.epochs * recipe.steps_per_epoch
    assert smoke == (recipe.images < 10_000)


def test_smoke_lays_its_fields_over_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('preset = "dvt_tiny_digits"\nimages = 900\nseed = 3\n[smoke]\nimages = 10\n')
    assert load_recipe(str(path)).images == 900
    smoke = load_recipe(str(path), smoke=True)
    assert (smoke.images, smoke.seed) == (10, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('preset = "dvt_tiny_digits"\nlearning_rat = 0.1\n', "unknown field learning_rat"),
        ("images = 10\n", "names no preset"),
        ('preset = "dvt_tiny_digits"\nimages = 0\n', "images must be a whole number"),
        ('preset = "dvt_tiny_digits"\nimages = "many"\n', "images must be a whole number"),
        ('preset = "dvt_tiny_digits"\nlearning_rate = 2.0\n', "learning_rate must be between 0 and 1"),
        ('preset = "dvt_tiny_digits"\nprecision = "float8"\n', "precision must be one of"),
        ('preset = "dvt_tiny_digits"\ntoken_loss = -1.0\n', "token_loss must not be negative"),
        ("preset = \n", "not valid TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(ValueError, match="digits"):
        load_recipe("imagenot")


def test_steps_are_whole_epochs() -> None:
    assert Recipe("dvt_tiny_digits", images=1000, batch_size=10, steps_per_epoch=30).steps == 90
    assert Recipe("dvt_tiny_digits", images=1, batch_size=10, steps_per_epoch=30).steps == 30

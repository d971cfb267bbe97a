"""Where each exit looked, as the page shows it: maps over the pixels, and what the next exit took over, in words."""

from __future__ import annotations

import base64
import dataclasses
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.inference import Predictor
from app.looking import HandedOn, heat_map, look, look_html, panel_html, token_of_pixel
from app.views import grid_edges
from dvt_tf.attention_maps import reused_relationships, rollout
from dvt_tf.image_files import ImageError
from dvt_tf.presets import CascadeConfig
from tests.app.models import DIGITS, PETS, page_model
from tests.cascades import TOKENS_TO_TOKEN, small_cascade

HOSTILE = '"><script>alert(1)</script><img src=x onerror="alert(1)">'


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text, as a browser would read them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def alts(self) -> list[str]:
        return [attributes["alt"] or "" for tag, attributes in self.found if tag == "img"]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def noise(seed: int = 0, size: int = 28) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def predictor_of(**fields: Any) -> Predictor:
    model = small_cascade(**{"num_classes": 2, **fields})
    model.card = {**model.card, "class_names": PETS}
    return Predictor(model, "small")


def test_each_exit_has_maps_of_its_grid_over_the_pixels_seen(digits_predictor: Predictor, picture: Path) -> None:
    looks = look(digits_predictor, picture.read_bytes())
    outputs = digits_predictor.outputs_of(picture.read_bytes())
    assert [found.exit for found in looks] == [1, 2, 3]
    for k, (found, own, grid) in enumerate(zip(looks, outputs, (7, 10, 14))):
        assert found.label == int(np.argmax(own.logits[0]))
        np.testing.assert_allclose(found.rollout.values, rollout(own.relationships)[0], atol=1e-6)
        assert found.rollout.values.shape == (grid, grid)
        assert found.rollout.picture.shape == (112, 112, 3)
        assert found.rollout.picture.dtype == np.uint8
        if found.handed_on is None:
            assert k == 2
            continue
        finer = (7, 10, 14)[k + 1]
        assert found.handed_on.features is not None
        assert found.handed_on.attention is not None
        assert found.handed_on.features.values.shape == found.handed_on.attention.values.shape == (finer, finer)
        share = reused_relationships(digits_predictor.model.transformers[k + 1], own, outputs[k + 1])
        assert found.handed_on.share == pytest.approx(float(share[0]), abs=1e-5)


def test_the_maps_depend_on_the_image_alone() -> None:
    predictor = predictor_of()
    first, other, again = (look(predictor, noise(seed)) for seed in (0, 1, 0))
    for one, another, same in zip(first, other, again):
        assert np.abs(one.rollout.values - another.rollout.values).max() > 1e-4
        np.testing.assert_array_equal(one.rollout.picture, same.rollout.picture)


def test_what_is_no_image_is_an_image_error() -> None:
    with pytest.raises(ImageError):
        look(predictor_of(), b"just words")


def test_the_last_exit_hands_on_nothing() -> None:
    predictor = predictor_of()
    looks = look(predictor, noise())
    assert [found.handed_on is None for found in looks] == [False, False, True]
    text = Elements(look_html(looks[-1], predictor)).text
    assert "The last exit: there is none after it" in text
    assert "Handed on" not in text


def test_a_model_of_one_exit() -> None:
    predictor = Predictor(page_model((4,), PETS), "static")
    (only,) = look(predictor, noise())
    assert only.handed_on is None
    text = Elements(panel_html([only], predictor)).text
    assert "Where exit 1 looked to say" in text
    assert "The only exit: there is none after it" in text


@pytest.mark.parametrize(
    ("fields", "said", "images"),
    [
        ({}, "Features: how far each token’s are from the mean", 3),
        ({"feature_reuse": "none"}, "This model reuses no features. Relationships are ", 2),
        ({"relationship_reuse": "none"}, "This model reuses no relationships.", 2),
        (
            {"feature_reuse": "none", "relationship_reuse": "none"},
            "Handed on to exit 2: nothing. This model reuses neither features nor relationships.",
            1,
        ),
    ],
)
def test_what_is_handed_on_is_told_in_words(fields: dict, said: str, images: int) -> None:
    predictor = predictor_of(token_grids=(2, 3), **fields)
    first, _ = look(predictor, noise())
    page = Elements(look_html(first, predictor))
    assert said in page.text
    assert "Handed on to exit 2" in page.text
    assert len(page.alts()) == images


def test_the_share_is_of_the_blocks_that_take_any() -> None:
    predictor = predictor_of(token_grids=(2, 3), depth=4, relationship_reuse="shallow")
    first, _ = look(predictor, noise())
    assert first.handed_on is not None
    exact = dataclasses.replace(first, handed_on=dataclasses.replace(first.handed_on, share=0.379))
    text = Elements(look_html(exact, predictor)).text
    assert "Relationships are 37.9% of what exit 2’s attention weighs by in the 2 of its 4 blocks that take any" in text
    everywhere = predictor_of(token_grids=(2, 3))
    assert "blocks that take any" not in Elements(look_html(look(everywhere, noise())[0], everywhere)).text


def test_exits_that_never_ran_are_told_as_what_would_be() -> None:
    predictor = predictor_of()
    looks = look(predictor, noise())
    left_at_2 = Elements(panel_html(looks, predictor, answered_at=2)).text
    for said in ("Where exit 2 looked", "Where exit 3 would look", "Handed on to exit 2", "Would hand on to exit 3"):
        assert said in left_at_2
    assert "would" not in Elements(panel_html(looks, predictor)).text.lower().replace("these alone would look", "")


def test_class_names_are_escaped_and_every_map_has_its_text() -> None:
    predictor = Predictor(page_model((2, 3), [HOSTILE, HOSTILE]), "hostile")
    page = Elements(panel_html(look(predictor, noise()), predictor))
    assert not [tag for tag, _ in page.found if tag == "script"]
    assert page.text.count(HOSTILE) == 2
    sources = [attributes["src"] or "" for tag, attributes in page.found if tag == "img"]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(set(attributes) == {"alt", "src"} for tag, attributes in page.found if tag == "img")
    first, features, relationships, second = page.alts()
    assert first.startswith(f"Where exit 1 looked to say {HOSTILE}: attention rollout. Heat map of 2×2 tokens, ")
    assert features.startswith("Features for exit 2")
    assert relationships.startswith("Relationships for exit 2")
    assert "3×3 tokens" in second
    assert len({first, features, relationships, second}) == 4


def test_the_brightest_token_is_named_in_the_text() -> None:
    predictor = predictor_of(token_grids=(2, 3))
    first, _ = look(predictor, noise())
    values = np.full((4, 4), 0.05, np.float32)
    values[2, 1] = 0.25
    drawn = dataclasses.replace(first, rollout=heat_map(values, np.zeros((28, 28, 3)), predictor.config))
    page = Elements(look_html(drawn, predictor))
    assert page.alts()[0].endswith("4×4 tokens, brightest in row 3, column 2: 4.0 times the mean token")
    assert "4.0× mean" in page.text


def test_the_drawn_maps_are_in_the_page_without_loss() -> None:
    predictor = predictor_of(token_grids=(2, 3))
    first, _ = look(predictor, noise())
    assert isinstance(first.handed_on, HandedOn)
    assert first.handed_on.features is not None
    assert first.handed_on.attention is not None
    sources = [a["src"] or "" for tag, a in Elements(look_html(first, predictor)).found if tag == "img"]
    maps = (first.rollout, first.handed_on.features, first.handed_on.attention)
    for source, drawn in zip(sources, maps, strict=True):
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        np.testing.assert_array_equal(decoded, drawn.picture)


def test_a_cell_is_one_colour_over_an_even_ground_and_brighter_for_more() -> None:
    config = CascadeConfig(image_size=112, token_grids=(7, 14))
    values = np.arange(49, dtype=np.float32).reshape(7, 7)
    picture = heat_map(values, np.full((112, 112, 3), 128.0), config).picture
    light = picture.astype(int).sum(-1)
    for row in range(7):
        for column in range(7):
            inside = picture[16 * row + 1 : 16 * row + 16, 16 * column + 1 : 16 * column + 16]
            assert (inside == inside[0, 0]).all()
    centres = light[8::16, 8::16].ravel()
    assert (np.diff(centres) >= 0).all()
    assert centres[-1] > centres[0] + 200
    assert light[40, 16] < light[40, 15]  # the seam between two cells


def test_the_image_stays_visible_under_its_map() -> None:
    config = CascadeConfig(image_size=112, token_grids=(7, 14))
    pixels = np.zeros((112, 112, 3))
    pixels[:, 60:] = 255
    picture = heat_map(np.ones((7, 7), np.float32), pixels, config).picture.astype(int)
    assert picture[5, 62].sum() - picture[5, 58].sum() > 200


def test_an_empty_map_is_drawn_too() -> None:
    config = CascadeConfig(image_size=28, token_grids=(2, 4))
    drawn = heat_map(np.zeros((2, 2), np.float32), np.zeros((28, 28, 3)), config)
    assert drawn.picture.max() <= 5
    assert drawn.peak == 1.0


@pytest.mark.parametrize(("size", "grid"), [(112, 7), (112, 10), (112, 14), (224, 10), (28, 3)])
def test_cells_meet_where_the_grid_is_drawn(size: int, grid: int) -> None:
    config = CascadeConfig(image_size=size, token_grids=(grid, grid + 1))
    cell = token_of_pixel(config, grid)
    assert cell.shape == (size,)
    assert (np.flatnonzero(np.diff(cell)) + 1).tolist() == grid_edges(config, grid)
    assert cell.min() == 0
    assert cell.max() == grid - 1


def test_overlapping_tokens_have_even_cells() -> None:
    predictor = predictor_of(**TOKENS_TO_TOKEN)
    np.testing.assert_array_equal(np.bincount(token_of_pixel(predictor.config, 2)), [14, 14])
    looks = look(predictor, noise())
    assert [found.rollout.values.shape for found in looks] == [(2, 2), (3, 3)]
    assert len(Elements(panel_html(looks, predictor)).alts()) == 4


def test_class_names_of_the_card_are_what_it_says(digits_predictor: Predictor, picture: Path) -> None:
    looks = look(digits_predictor, picture.read_bytes())
    text = Elements(panel_html(looks, digits_predictor)).text
    for found in looks:
        assert f"Where exit {found.exit} looked to say {DIGITS[found.label]}" in text

"""Preprocessing in the graph: the same pixels as Pillow, whatever the format, the orientation and the size."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from dvt_tf import preprocessing
from dvt_tf.cascade import preset_card
from dvt_tf.presets import get_preset
from tests import images

CARD = images.card()


def decoded(contents: bytes) -> np.ndarray:
    """The graph's pixels of one file, as it stands."""
    pixels, readable = preprocessing.decode_image(tf.constant(contents))
    assert bool(readable)
    return pixels.numpy()


def crop(*contents: bytes) -> tuple[np.ndarray, np.ndarray]:
    pixels, valid = preprocessing.decode_and_crop(list(contents), CARD)
    return pixels.numpy(), valid.numpy()


@pytest.mark.parametrize("kind", images.graph_files())
def test_pixels_are_pillows(kind: str) -> None:
    contents = images.graph_files()[kind]
    reference = images.on_white(Image.open(io.BytesIO(contents)))
    # Equal but for the rounding of transparency.
    assert np.abs(decoded(contents) - reference).max() <= 0.5


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_of_few_bits(depth: int, colour: int, transparent: bool) -> None:
    rng = np.random.default_rng(depth)
    rows = [rng.bytes(3 * depth) for _ in range(7)]
    chunks = images.png_chunk(b"PLTE", rng.bytes(3 * 2**depth)) if colour == 3 else b""
    if transparent:
        chunks += images.png_chunk(b"tRNS", b"\0\0" if colour == 0 else bytes([0, 90, 180][: 2**depth]))
    contents = images.png_file(24, 7, depth, colour, rows, chunks)
    assert np.abs(decoded(contents) - images.on_white(Image.open(io.BytesIO(contents)))).max() <= 0.5


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png_of_sixteen_bits_is_scaled(colour: int, channels: int) -> None:
    samples = np.random.default_rng(3).integers(0, 65536, (9, 11, channels))
    samples[0, :4, 0] = [0, 65535, 127, 129]
    contents = images.png_file(11, 9, 16, colour, [row.astype(">u2").tobytes() for row in samples])
    levels = samples / 65535 * 255
    alpha = levels[..., -1:] / 255 if colour in (4, 6) else 1.0
    reference = levels[..., : 3 if channels > 2 else 1] * alpha + 255 * (1 - alpha)
    # One rounding to 8 bits, and two more where there is alpha to round and to apply.
    assert np.abs(decoded(contents) - reference).max() <= (1.5 if colour in (4, 6) else 0.5)


def _jpeg_with_app1(content: bytes) -> bytes:
    """A JPEG with one APP1 segment."""
    contents = images.file_bytes(images.picture(), "JPEG")
    return contents[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content + contents[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    contents = images.file_bytes(images.picture(), kind, exif=images.exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(contents)))
    np.testing.assert_array_equal(decoded(contents), np.asarray(upright))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("field_type", [3, 4])
def test_exif_of_both_byte_orders_and_long_values(order: str, field_type: int) -> None:
    value = struct.pack(order + ("HH" if field_type == 3 else "I"), *((6, 0) if field_type == 3 else (6,)))
    entries = struct.pack(order + "HHI4s", 0x010F, 2, 4, b"abc\0")
    entries += struct.pack(order + "HHI4s", 0x0112, field_type, 1, value)
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 2) + entries
    contents = _jpeg_with_app1(b"Exif\0\0" + tiff + b"\0\0\0\0")
    np.testing.assert_array_equal(decoded(contents), np.rot90(decoded(_jpeg_with_app1(b"")), -1))


@pytest.mark.parametrize(
    "segment",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",
        b"Exif\0\0XX*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
        b"http://ns.adobe.com/xap/1.0/\0<x/>",
    ],
)
def test_damaged_exif_is_no_orientation(segment: bytes) -> None:
    np.testing.assert_array_equal(decoded(_jpeg_with_app1(segment)), decoded(_jpeg_with_app1(b"")))


def test_exif_behind_other_segments_and_fill_bytes() -> None:
    plain = images.file_bytes(images.picture(), "JPEG")
    turned = images.file_bytes(images.picture(), "JPEG", exif=images.exif(8))
    at = turned.index(b"\xff\xe1")
    end = at + 2 + int.from_bytes(turned[at + 2 : at + 4], "big")
    others = b"".join(b"\xff\xe2\xff\xff" + b"\xff\xda" * 32766 + b"\0" for _ in range(3)) + b"\xff\xff\xff"
    contents = plain[:2] + others + turned[at:end] + plain[2:]
    np.testing.assert_array_equal(decoded(contents), np.rot90(decoded(plain)))


def test_a_jpeg_with_bytes_after_its_end_is_read() -> None:
    contents = images.file_bytes(images.picture(), "JPEG")
    np.testing.assert_array_equal(decoded(contents + b"\0trailer" * 20), decoded(contents))


def test_gif_shows_its_first_frame_alone() -> None:
    frames = [images.picture().rotate(angle).quantize(16 + angle) for angle in (0, 20, 40)]
    contents = images.file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0, comment=b"hello")
    np.testing.assert_array_equal(decoded(contents), np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")))
    # What comes after the first frame is not even looked at.
    second = contents.index(b"\x21\xf9", contents.index(b"\x2c"))
    np.testing.assert_array_equal(decoded(contents[: second + 30]), decoded(contents))


def test_gif_whose_first_frame_covers_part_of_its_canvas() -> None:
    frame = images.picture(20, 10).quantize(30)
    contents = bytearray(images.file_bytes(frame, "GIF"))
    at = contents.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 20, 10))
    contents[6:10] = struct.pack("<HH", 30, 25)
    contents[at + 1 : at + 5] = struct.pack("<HH", 7, 9)
    pixels = decoded(bytes(contents))
    expected = np.full((25, 30, 3), 255)
    expected[9:19, 7:27] = np.asarray(frame.convert("RGB"))
    np.testing.assert_array_equal(pixels, expected)


def test_gif_with_a_palette_of_the_frame_and_a_transparent_colour() -> None:
    frame = images.picture().quantize(16)
    frame.info["transparency"] = frame.getpixel((3, 4))
    contents = images.file_bytes(frame, "GIF", transparency=frame.info["transparency"])
    # Move the canvas's palette into the frame.
    flags = contents[10]
    size = 3 * 2 ** ((flags & 7) + 1)
    palette, rest = contents[13 : 13 + size], contents[13 + size :]
    at = rest.index(b"\x2c" + struct.pack("<HHHH", 0, 0, *frame.size))
    local = rest[: at + 9] + bytes([0x80 | rest[at + 9] | (flags & 7)]) + palette + rest[at + 10 :]
    moved = contents[:10] + bytes([flags & 0x70]) + contents[11:13] + local
    assert len(moved) == len(contents)
    np.testing.assert_array_equal(decoded(moved), decoded(contents))
    assert (decoded(contents) == 255).all(axis=-1).any()


def test_bmp_from_the_top_down_and_with_masks() -> None:
    contents = bytearray(images.file_bytes(images.picture(), "BMP"))
    upwards = decoded(bytes(contents))
    contents[22:26] = struct.pack("<i", -images.picture().height)
    np.testing.assert_array_equal(decoded(bytes(contents)), upwards[::-1])

    rgba = np.asarray(images.see_through())
    pixels = np.ascontiguousarray(rgba[::-1, :, [2, 1, 0, 3]]).tobytes()
    height, width = rgba.shape[:2]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 56, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    contents = bytearray(b"BM" + struct.pack("<IHHI", 70 + len(pixels), 0, 0, 70) + header + pixels)
    reference = images.on_white(Image.open(io.BytesIO(contents)))
    assert np.abs(decoded(bytes(contents)) - reference).max() <= 0.5
    assert np.abs(reference - rgba[..., :3]).max() > 50  # the alpha was there to be applied


@pytest.mark.long
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (9, 1), (60_000, 1), (1, 60_000), (2, 30_001), (31, 32), (33, 32), (32, 32)]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_any_size_and_shape(size: tuple[int, int], interpolation: str) -> None:
    width, height = size
    card = images.card(interpolation)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    values = np.stack([rows * 7 + columns * 5, rows * 11 + columns, columns * 3 + 40], axis=-1) % 256
    image = Image.fromarray(values.astype(np.uint8))
    pixels, valid = preprocessing.decode_and_crop([images.file_bytes(image, "PNG")], card)
    assert valid.numpy().all()
    # Pillow is given only the middle, far enough from the crop's edges for these to be the same: a long strip's resize
    # would need gigabytes.
    long = max(size)
    if long > 1000:
        middle = long // 2 - 200 + (long % 2)
        box = (middle, 0, long - middle, height) if width > height else (0, middle, width, long - middle)
        image = image.crop(box)
    reference = images.resized_like_pillow(image, images.SIZE, images.SIZE, interpolation)
    difference = np.abs(pixels[0].numpy() - reference)
    assert difference.max() <= (2 if interpolation == "bicubic" else 1)
    assert difference.mean() <= 0.5


@pytest.mark.long
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "short_side"), [(112, 112), (224, 256), (97, 110)])
def test_photos_resize_as_in_pillow(index: int, turned: bool, interpolation: str, size: int, short_side: int) -> None:
    image = images.photo(index)
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_90)
    card = images.card(interpolation, size, short_side)
    pixels, valid = preprocessing.decode_and_crop([images.file_bytes(image, "BMP")], card)
    assert valid.numpy().all()
    difference = np.abs(pixels[0].numpy() - images.resized_like_pillow(image, size, short_side, interpolation))
    assert difference.mean() < 0.25
    assert difference.max() <= 4


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "box",
    [(0, 0, 640, 427), (100, 0, 420, 427), (3, 5, 504, 338), (250, 10, 347, 400), (200, 100, 425, 323)],
    ids=["landscape", "portrait", "odd", "narrow", "smaller than the crop"],
)
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True})]
)
def test_imagenet_input_is_the_published_one_from_file_to_tensor(
    index: int, box: tuple[int, int, int, int], kind: str, options: dict[str, Any]
) -> None:
    card = preset_card("dvt_t2t_vit_12", get_preset("dvt_t2t_vit_12"))
    contents = images.file_bytes(images.photo(index).crop(box), kind, **options)
    prepared, valid = preprocessing.preprocess([contents], card)
    assert valid.numpy().all()
    # Short side 256, bicubic; the middle 224; the mean and deviation of ImageNet's pixels.
    reference = images.resized_like_pillow(Image.open(io.BytesIO(contents)), 224, 256, "bicubic")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    difference = np.abs(prepared[0].numpy() - (reference / 255 - mean) / std) * std * 255  # in grey levels
    assert difference.mean() < 0.05
    assert difference.max() < 2.01


def test_pixels_are_whole_grey_levels_and_normalised_by_the_card() -> None:
    card = images.card("bicubic")
    contents = [images.file_bytes(images.photo(), "PNG")]
    pixels, _ = preprocessing.decode_and_crop(contents, card)
    prepared, _ = preprocessing.preprocess(contents, card)
    assert pixels.dtype == prepared.dtype == tf.float32
    np.testing.assert_array_equal(pixels, np.clip(np.round(pixels), 0, 255))
    settings = card["preprocessing"]
    expected = (pixels.numpy() / 255 - settings["mean"]) / settings["std"]
    np.testing.assert_allclose(prepared, expected, atol=1e-5)
    np.testing.assert_array_equal(preprocessing.normalise(tf.cast(pixels, tf.uint8), card), prepared)


def test_a_picture_of_the_models_size_is_left_as_it_is() -> None:
    image = images.picture(images.SIZE, images.SIZE)
    pixels, _ = crop(images.file_bytes(image, "PNG"))
    np.testing.assert_array_equal(pixels[0], np.asarray(image))
    np.testing.assert_array_equal(preprocessing.crop_pixels(tf.constant(np.asarray(image)), CARD), np.asarray(image))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "nearest"}, "bilinear or bicubic"),
        ({"resize_short_side": 31}, "at least its image_size"),
        ({"image_size": None}, "image_size is None; it must be a number of pixels"),
        ({"mean": [0.5, 0.5]}, "three numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "above 0"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    card = {"preprocessing": {**CARD["preprocessing"], **change}}
    with pytest.raises(ValueError, match=message):
        preprocessing.preprocess([b""], card)


def test_a_card_without_its_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'preprocessing'"):
        preprocessing.preprocess([b""], {})
    entry = {key: value for key, value in CARD["preprocessing"].items() if key not in ("interpolation", "mean")}
    with pytest.raises(ValueError, match="lacks interpolation, mean"):
        preprocessing.preprocess([b""], {"preprocessing": entry})


def test_one_string_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        preprocessing.preprocess(b"abc", CARD)


def test_a_graph_is_traced_once_calls_are_many() -> None:
    card = images.card(image_size=31)
    function = preprocessing._decode_and_crop_function(preprocessing.PreprocessingSettings.from_card(card))
    counts = []
    for _ in range(4):
        preprocessing.decode_and_crop([b"x"], card)
        counts.append(function.graph.experimental_get_tracing_count())
    assert counts == [0, 0, 1, 1]

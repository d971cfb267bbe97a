"""The edge where files come in: the graph's own files untouched, others as the same pixels, bad ones named."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dvt_tf import image_files, preprocessing
from dvt_tf.image_files import ImageError
from tests import images

pytestmark = pytest.mark.one_stack


def graph_pixels(contents: bytes) -> np.ndarray:
    pixels, readable = preprocessing.decode_image(tf.constant(contents))
    assert bool(readable)
    return pixels.numpy()


def _untouched() -> dict[str, bytes]:
    rgb, grey = images.picture(), images.picture().convert("L")
    return {
        "photo.jpg": images.file_bytes(rgb, "JPEG", exif=images.exif(6)),
        "grey.jpg": images.file_bytes(grey, "JPEG"),
        "cmyk.jpg": images.file_bytes(rgb.convert("CMYK"), "JPEG"),
        "rgb.png": images.file_bytes(rgb, "PNG"),
        "palette.png": images.file_bytes(rgb.quantize(9), "PNG", transparency=3),
        "sixteen.png": images.file_bytes(_sixteen_bit(), "PNG"),
        "rgb.bmp": images.file_bytes(rgb, "BMP"),
        "grey.bmp": images.file_bytes(grey, "BMP"),
        "one.gif": images.file_bytes(rgb, "GIF"),
    }


def _converted() -> dict[str, bytes]:
    rgb, see_through = images.picture(), images.see_through()
    return {
        "lossy.webp": images.file_bytes(rgb, "WEBP", quality=80),
        "lossless.webp": images.file_bytes(see_through, "WEBP", lossless=True),
        "turned.webp": images.file_bytes(rgb, "WEBP", exif=images.exif(5)),
        "rgb.tif": images.file_bytes(rgb, "TIFF", compression="tiff_lzw"),
        "turned.tif": images.file_bytes(rgb, "TIFF", exif=images.exif(8)),
        "see_through.tif": images.file_bytes(see_through, "TIFF"),
        "cmyk.tif": images.file_bytes(rgb.convert("CMYK"), "TIFF"),
        "palette.tif": images.file_bytes(rgb.quantize(40), "TIFF"),
        "bits.tif": images.file_bytes(rgb.convert("1"), "TIFF"),
        "bits.bmp": images.file_bytes(rgb.convert("1"), "BMP"),
        "rgb.ppm": images.file_bytes(rgb, "PPM"),
        "rgb.tga": images.file_bytes(see_through, "TGA"),
        "icon.ico": images.file_bytes(see_through, "ICO"),
    }


def _sixteen_bit() -> Image.Image:
    grey = np.asarray(images.picture().convert("L"), np.uint32)
    return Image.fromarray((grey * 257 * 65535 // 65535).astype(np.uint16))


@pytest.mark.parametrize("name", _untouched())
def test_what_the_graph_reads_goes_through_as_it_is(name: str, tmp_path: Path) -> None:
    contents = _untouched()[name]
    path = tmp_path / name
    path.write_bytes(contents)
    assert image_files.read_image_bytes(path) == contents
    assert image_files.read_image_bytes(str(path)) == contents
    with path.open("rb") as file:
        assert image_files.read_image_bytes(file) == contents


@pytest.mark.parametrize("name", _converted())
def test_what_only_pillow_reads_becomes_png_of_the_same_pixels(name: str, tmp_path: Path) -> None:
    path = tmp_path / "some.jpg"  # the name says nothing
    path.write_bytes(_converted()[name])
    contents = image_files.read_image_bytes(path)
    assert contents.startswith(b"\x89PNG")
    with Image.open(path) as image:
        reference = images.on_white(ImageOps.exif_transpose(image))
    pixels = graph_pixels(contents)
    assert pixels.shape == reference.shape
    assert np.abs(pixels - reference).max() <= 0.5


@pytest.mark.parametrize("name", sorted({*_untouched(), *_converted()} - {"sixteen.png", "palette.png"}))
def test_a_pillow_image_has_the_pixels_of_its_file(name: str) -> None:
    contents = {**_untouched(), **_converted()}[name]
    with Image.open(io.BytesIO(contents)) as image:
        from_pillow = graph_pixels(image_files.image_bytes_from_pil(image))
    np.testing.assert_array_equal(from_pillow, graph_pixels(image_files.to_graph_bytes(contents)))


def test_every_mode_of_pillow() -> None:
    rgb = images.picture()
    grey = np.asarray(rgb.convert("L"), np.float64)
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "La", "RGBa"):
        source = images.see_through() if mode in ("LA", "PA", "RGBA") else rgb
        if mode in ("La", "RGBa"):
            source = images.see_through().convert({"La": "LA", "RGBa": "RGBA"}[mode])
        image = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
        opaque = mode not in ("LA", "PA", "RGBA", "La", "RGBa")
        reference = (
            np.asarray(image.convert("RGB"))
            if opaque
            else images.on_white(image.convert("LA") if mode == "La" else image)
        )
        pixels = graph_pixels(image_files.image_bytes_from_pil(image))
        assert np.abs(pixels - reference).max() <= 0.5, mode
    for values in (grey.astype(np.uint16) * 257, grey.astype(np.int32) * 257, (grey / 255).astype(np.float32)):
        pixels = graph_pixels(image_files.image_bytes_from_pil(Image.fromarray(values)))
        np.testing.assert_array_equal(pixels[..., 1], grey)
    for values in (grey.astype(np.float32), (grey * 257).astype(np.float32)):
        pixels = graph_pixels(image_files.image_bytes_from_pil(Image.fromarray(values)))
        np.testing.assert_array_equal(pixels[..., 2], grey)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 129, 300, 32_768, 65_535]])
    expected = np.round(values / 257).astype(np.uint8)
    for kind, numbers in (("TIFF", values.astype(np.uint16)), ("TIFF", values.astype(np.int32))):
        contents = image_files.to_graph_bytes(images.file_bytes(Image.fromarray(numbers), kind))
        np.testing.assert_array_equal(graph_pixels(contents)[..., 0], expected)
    big_endian = Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(graph_pixels(image_files.image_bytes_from_pil(big_endian))[..., 0], expected)


@pytest.mark.parametrize("values", [[-1.0, 3.0], [0.0, 70_000.0], [0.0, float("nan")], [float("inf"), 0.0]])
def test_grey_values_of_no_known_range_are_refused(values: list[float]) -> None:
    with pytest.raises(ImageError, match=r"scan\.tif: has grey values from .* from 0 to 65535"):
        image_files.image_bytes_from_pil(Image.fromarray(np.array([values], np.float32)), "scan.tif")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"hello, I am a text\n" * 9, "is not an image"),
        (b"\xff\xd8\xff\xe0" + b"garbage" * 40, "damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"garbage" * 40, "damaged or truncated"),
        (b"GIF89a" + b"garbage" * 40, "damaged or truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (images.declares("JPEG", 60_000, 60_000), "60000 x 60000 pixels; the limit is 64 million"),
        (images.declares("PNG", 8_001, 8_000), "8001 x 8000 pixels; the limit is 64 million"),
        (images.declares("PNG", 50_000, 50_000), "too many pixels; the limit is 64 million"),
        (images.declares("BMP", 9_000, 9_000), "9000 x 9000 pixels; the limit is 64 million"),
        (images.declares("GIF", 9_000, 9_000), "9000 x 9000 pixels; the limit is 64 million"),
    ],
)
def test_a_bad_file_is_named_and_explained(contents: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(contents)
    with pytest.raises(ImageError) as caught:
        image_files.read_image_bytes(path)
    # A JPEG's limit may be met by Pillow's own guard first.
    wanted = (message, "far too many pixels; the limit is 64 million") if "limit" in message else (message,)
    assert str(caught.value).startswith(f"{path}: ")
    assert any(words in str(caught.value) for words in wanted), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_file_of_another_format_is_refused_before_decoding() -> None:
    tiff = bytearray(images.file_bytes(images.picture(), "TIFF"))
    directory = struct.unpack("<I", tiff[4:8])[0]
    for entry in range(struct.unpack("<H", tiff[directory : directory + 2])[0]):
        at = directory + 2 + 12 * entry
        if struct.unpack("<H", tiff[at : at + 2])[0] in (256, 257):
            tiff[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 8_100)
    with pytest.raises(ImageError, match="8100 x 8100 pixels; the limit is 64 million"):
        image_files.to_graph_bytes(bytes(tiff))


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing.png: no such file"):
        image_files.read_image_bytes(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        image_files.read_image_bytes(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        image_files.read_image_bytes("nul\0l.png")


def passed_or_named(contents: bytes, name: str) -> bytes | None:
    """The bytes for the graph, or None where the file is refused by its name."""
    try:
        return image_files.to_graph_bytes(contents, name)
    except ImageError as error:
        if not str(error).startswith(f"{name}: "):
            raise
        return None


FILES_TO_CUT = {**_untouched(), **_converted()}


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(set(FILES_TO_CUT) - {"rgb.tga", "icon.ico", "rgb.ppm"})), place=st.floats(0, 1))
def test_truncated_anywhere_is_an_error_or_the_whole_picture(name: str, place: float) -> None:
    contents = FILES_TO_CUT[name]
    cut = contents[: int(place * len(contents))]
    if len(cut) == len(contents):
        return
    passed = passed_or_named(cut, name)
    if passed is not None:
        # A TIFF's or WebP's last bytes may be metadata: then nothing of the picture is missing.
        assert not contents.startswith(image_files.GRAPH_FORMATS)
        np.testing.assert_array_equal(graph_pixels(passed), graph_pixels(image_files.to_graph_bytes(contents)))


@settings(max_examples=100)
@given(
    name=st.sampled_from(sorted(FILES_TO_CUT)),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5),
    in_header=st.booleans(),
)
def test_damage_is_an_error_or_a_picture(name: str, damage: list[tuple[float, int]], in_header: bool) -> None:
    contents = bytearray(FILES_TO_CUT[name])
    for place, value in damage:
        contents[int(place * (min(len(contents), 100) if in_header else len(contents) - 1))] = value
    passed = passed_or_named(bytes(contents), name)
    if passed is not None:
        _, valid = preprocessing.decode_and_crop([passed], images.card())
        assert valid.numpy().all()


def test_folders_are_expanded_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "c.webp"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "inner.png").mkdir()
    odd = tmp_path / "notes.txt"
    files = image_files.list_image_files([str(odd), tmp_path])
    assert files == [odd, tmp_path / "a.jpg", tmp_path / "b.PNG", tmp_path / "c.webp"]


def test_missing_paths_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        image_files.list_image_files([tmp_path / "nowhere"])
    with pytest.raises(ImageError, match=r"holds no image file \("):
        image_files.list_image_files([tmp_path])

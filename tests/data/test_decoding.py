"""One file becomes one array, or a reason why not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dpdm_cli.data.decoding import MAX_PIXELS, BadImageError, Fit, decode, refit
from dpdm_cli.errors import UsageError

AS_IS = Fit()
GENERATOR = np.random.default_rng(3)
GREY = GENERATOR.integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = GENERATOR.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, with right checksums."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data]
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def png_of(width: int, height: int, depth: int, colour: int, row: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * height)
    return png((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("suffix", ["PNG", "BMP"])
def test_lossless_formats_give_back_every_pixel(encode, pixels, suffix):
    found = decode(encode(pixels, suffix=suffix), AS_IS)
    assert np.array_equal(found.pixels, pixels)
    assert found.size == (5, 6)


def test_one_bit_images_become_black_and_white_grey(encode):
    image = Image.fromarray(GREY > 127)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    assert np.array_equal(decode(stream.getvalue(), AS_IS).pixels, np.where(GREY > 127, 255, 0))


def test_the_orientation_a_camera_noted_is_applied():
    image = Image.fromarray(GREY)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    assert np.array_equal(decode(stream.getvalue(), AS_IS).pixels, np.rot90(GREY, -1))


def refused(data: bytes) -> str:
    with pytest.raises(BadImageError) as caught:
        decode(data, AS_IS)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_refused(encode, mode):
    assert "transparency" in refused(encode(mode=mode))


def test_a_transparent_colour_is_refused(encode):
    assert "transparency" in refused(encode(COLOUR, transparency=(1, 2, 3)))


@pytest.mark.parametrize("options", [{}, {"transparency": 0}], ids=["opaque", "transparent"])
def test_palettes_are_refused(encode, options):
    assert "palette" in refused(encode(mode="P", **options))


def test_sixteen_bit_grey_is_refused(encode):
    assert "no window" in refused(encode(mode="I;16"))


def test_sixteen_bit_colour_is_refused_although_pillow_would_halve_it():
    data = png_of(2, 2, 16, 2, bytes(12))
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    assert "16 bits" in refused(data)


def test_cmyk_is_refused(encode):
    assert "CMYK" in refused(encode(mode="CMYK", suffix="JPEG"))


@pytest.mark.parametrize("suffix", ["PNG", "WEBP"])
def test_animations_are_refused(suffix):
    frames = [Image.new("RGB", (4, 4), value) for value in ("red", "green", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, suffix, save_all=True, append_images=frames[1:])
    assert "animated" in refused(stream.getvalue())


@pytest.mark.parametrize("data", [b"", b"<html><body>404</body></html>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data):
    assert refused(data)


def test_a_gif_under_any_name_is_refused(encode):
    assert "not a PNG, JPEG, WEBP, BMP, TIFF or DICOM" in refused(encode(mode="L", suffix="GIF"))


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_file_cut_anywhere_is_refused(encode, suffix):
    noise = GENERATOR.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = encode(noise, suffix=suffix)
    for share in (0.05, 0.3, 0.6, 0.9, 0.98):
        assert refused(data[: int(len(data) * share)])


def test_a_flipped_byte_anywhere_in_a_png_is_refused(encode):
    data = encode(GREY)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x10
        assert refused(bytes(broken))


@pytest.mark.parametrize("side", [8_100, 20_000])
def test_a_header_of_too_many_pixels_is_refused_before_decoding(side):
    assert side * side > MAX_PIXELS
    assert "more than" in refused(png_of(side, side, 8, 0, b""))


def test_the_centred_square_is_cut_out_and_resized():
    pixels = np.zeros((40, 100), np.uint8)
    pixels[:, 30:70] = 200
    found = refit(pixels[None], Fit(image_size=10))
    assert found.shape == (1, 10, 10)
    assert np.all(found == 200)


def test_shrinking_averages_instead_of_dropping_pixels():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = refit(checks[None], Fit(image_size=8)).astype(int)
    assert np.all(np.abs(small - 127.5) < 12)


def test_images_of_the_right_size_are_left_alone(encode):
    square = GREY[:5]
    assert np.array_equal(decode(encode(square), Fit(image_size=5)).pixels, square)


def test_files_and_arrays_are_fitted_alike(encode):
    fit = Fit(image_size=3, channels=1)
    assert np.array_equal(decode(encode(COLOUR), fit).pixels, refit(COLOUR[None], fit)[0])


def test_grey_as_colour_repeats_the_channel():
    found = refit(GREY[None], Fit(channels=3))[0]
    assert np.array_equal(found, np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": 10**6}, {"channels": 2}])
def test_impossible_sizes_and_channels_are_usage_errors(options):
    with pytest.raises(UsageError):
        Fit(**options)

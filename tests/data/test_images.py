"""One image to an array: what is read, what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from data import images as images_module
from data.formats import png
from data.images import read_frame, read_mask, read_size, resize_mask
from data.remarks import Remarks
from tests.builders import random_sequence, write_image


def test_the_first_channel_of_colour_images_is_read(tmp_path, rng):
    colour = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    write_image(tmp_path / "colour.png", colour)
    assert np.array_equal(read_frame(tmp_path / "colour.png"), colour[..., 0])
    assert np.array_equal(read_mask(tmp_path / "colour.png"), colour.any(axis=2))


def test_16_bit_images_keep_their_range(tmp_path, rng):
    deep = rng.integers(0, 65536, (6, 7)).astype(np.uint16)
    for suffix in ("png", "tif"):
        write_image(tmp_path / f"deep.{suffix}", deep)
        frame = read_frame(tmp_path / f"deep.{suffix}")
        assert frame.dtype == np.uint16 and np.array_equal(frame, deep)


@pytest.mark.parametrize("filters", [0, 1, 2, 3, 4, None])
@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_pngs_are_read_at_their_depth(tmp_path, rng, filters, kind, channels):
    pixels = rng.integers(0, 65536, (7, 5, channels)).astype(">u2")
    rows = rng.integers(0, 5, 7) if filters is None else np.full(7, filters)
    lines = filtered(rows, pixels.view(np.uint8).reshape(7, -1), 2 * channels)
    write_png(tmp_path / "deep.png", (7, 5), 16, kind, np.column_stack([rows, lines]))
    frame = read_frame(tmp_path / "deep.png")
    assert frame.dtype == np.uint16 and np.array_equal(frame, pixels[..., 0])


def filtered(filters, rows, step):
    """Rows of bytes (H, W) as a PNG holds them; the neighbour of a byte is `step` bytes away."""
    left, up, corner = np.zeros((3, *rows.shape), int)
    left[:, step:], up[1:], corner[1:, step:] = rows[:, :-step], rows[:-1], rows[:-1, :-step]
    estimates = left + up - corner
    distances = np.abs([estimates - left, estimates - up, estimates - corner])
    paeth = np.choose(distances.argmin(axis=0), [left, up, corner])
    guesses = np.stack([0 * left, left, up, (left + up) // 2, paeth])
    return (rows - guesses[filters, np.arange(len(rows))]).astype(np.uint8)


def write_png(path, size, bits, kind, lines, pieces=1):
    """Writes a PNG with these lines (H, 1 + bytes of a row), the filters before the rows."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = size
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    packed = zlib.compress(lines.astype(np.uint8).tobytes())
    cuts = np.linspace(0, len(packed), pieces + 1).astype(int)
    data = [chunk(b"IDAT", packed[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(data) + chunk(b"IEND", b""))


def test_a_header_that_claims_a_huge_image_is_refused(tmp_path):
    image = Image.fromarray(np.zeros((2, 2), np.uint8))
    image.save(tmp_path / "huge.bmp")
    data = bytearray((tmp_path / "huge.bmp").read_bytes())
    data[18:26] = struct.pack("<ii", 60000, 60000)
    (tmp_path / "huge.bmp").write_bytes(data)
    with pytest.raises(ValueError, match="huge.bmp: cannot be read"):
        read_frame(tmp_path / "huge.bmp")


def test_palette_and_bilevel_masks_are_read(tmp_path):
    mask = np.zeros((6, 7), np.uint8)
    mask[2, 3] = 1
    palette = Image.fromarray(mask).convert("P")
    palette.putpalette([0, 0, 0, 0, 128, 0])  # index 1 is green: no red
    palette.save(tmp_path / "palette.png")
    Image.fromarray(mask * 255).convert("1").save(tmp_path / "bilevel.png")
    for name in ("palette", "bilevel"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), mask)


def test_resizing_is_the_image_librarys_bicubic_for_image_and_mask(tmp_path, rng):
    images, masks = random_sequence(rng, 1, 20, 30)
    masks[0, 5:8, 10:12] = 255
    write_image(tmp_path / "image.png", images[0])
    write_image(tmp_path / "mask.png", masks[0])
    expected = Image.fromarray(images[0]).resize((40, 16))
    assert np.array_equal(read_frame(tmp_path / "image.png", (16, 40)), np.asarray(expected))
    expected = np.asarray(Image.fromarray(masks[0]).resize((40, 16))) > 0
    assert np.array_equal(read_mask(tmp_path / "mask.png", (16, 40)), expected)


def test_labels_0_and_1_are_resized_as_0_and_255():
    mask = np.zeros((20, 30), np.uint8)
    mask[5:8, 10:12] = 1
    assert np.array_equal(resize_mask(mask, (16, 40)), resize_mask(mask * 255, (16, 40)))


def write_filtered_png(path, filters, lines, pieces=2):
    """Writes an 8-bit grey PNG with these filters of rows and filtered rows (H, W)."""
    write_png(path, lines.shape, 8, 0, np.column_stack([filters, lines]), pieces)


@pytest.mark.parametrize("highest", [0, 1, 2, 4])
@pytest.mark.parametrize("share", [0, 0.01, 0.5])
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (31, 5), (80, 61)])
def test_masks_are_what_the_image_library_reads(tmp_path, rng, highest, share, shape):
    path = tmp_path / "mask.png"
    for pieces in (1, 3):
        lines = rng.integers(0, 256, shape) * (rng.random(shape) < share)
        filters = rng.integers(0, highest + 1, shape[0])
        write_filtered_png(path, filters, lines, pieces)
        with Image.open(path) as image:
            assert np.array_equal(read_mask(path), np.asarray(image) > 0)
            assert np.array_equal(read_frame(path), np.asarray(image))
        if highest <= 2 and share == 0:
            content = path.read_bytes()
            lines = png._inflate(content, *png.size_of(content))
            assert png._unfilter_few(lines[:, 0], lines[:, 1:]) is not None


@pytest.mark.parametrize("rest", [-1, 0, 1, 5000])
def test_a_file_of_any_length_is_read_whole(tmp_path, rng, rest):
    content = rng.bytes(images_module.READ_BYTES + rest)
    path = tmp_path / "large.png"
    path.write_bytes(content)
    assert images_module._read_file(path) == content


@pytest.mark.parametrize("highest", [2, 4])
def test_no_byte_of_a_png_changes_what_is_read_unseen(tmp_path, rng, highest):
    """Every single changed byte and every cut: refused, or what the image library reads."""
    image = rng.integers(0, 256, (5, 7)) * (rng.random((5, 7)) < 0.2)
    path = tmp_path / "image.png"
    write_filtered_png(path, rng.integers(0, highest + 1, 5), image, pieces=2)
    whole = path.read_bytes()
    assert png.decode_grey(whole) is not None
    damaged = [whole[:place] for place in range(len(whole))]
    for place in range(len(whole)):
        for change in (1, 32, 128):
            damaged.append(bytearray(whole))
            damaged[-1][place] ^= change
    compared = 0
    for content in map(bytes, damaged):
        pixels = png.decode_grey(content)
        if pixels is not None:
            with Image.open(io.BytesIO(content)) as expected:
                assert np.array_equal(pixels, np.asarray(expected))
            compared += 1
    assert 0 < compared < len(damaged) / 2


@pytest.mark.parametrize("content", [None, b"", b"no image at all"])
def test_an_unreadable_image_is_named(nudt, content):
    path = nudt / "Sequence47/images/00002.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(ValueError, match="00002.png: cannot be read as an image"):
        read_frame(path)
    with pytest.raises(ValueError, match="00002.png: cannot be read as a mask"):
        read_mask(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ("a.png", "a.jpg", "a.webp", "deep.png"))
def test_pictures_are_read_as_viewers_turn_them(tmp_path, rng, form, orientation):
    levels = rng.integers(0, 256, (6, 9), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / form
    picture = Image.fromarray(levels)
    if form == "deep.png":  # 16 bits of grey, written as what the library has
        picture = Image.fromarray(levels.astype(np.uint16) * 257)
    picture.save(path, exif=exif, quality=100)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert(stored.mode))
    expected = expected[..., 0] if expected.ndim == 3 else expected
    np.testing.assert_array_equal(read_frame(path), expected)
    assert read_size(path) == expected.shape == ((9, 6) if orientation > 4 else (6, 9))


def test_an_orientation_after_the_pixels_counts_and_one_among_them_does_not(tmp_path, rng):
    levels, exif, path = (
        rng.integers(0, 256, (60, 90), dtype=np.uint8),
        Image.Exif(),
        tmp_path / "a.png",
    )
    exif[274] = 6
    Image.fromarray(levels).save(path, exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    end = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[start + len(chunk) : end] + chunk + content[end:])
    np.testing.assert_array_equal(read_frame(path), np.rot90(levels, -1))
    assert read_size(path) == (90, 60)
    text = PngInfo()
    text.add_text("Comment", "no eXIf here")
    Image.fromarray(levels).save(path, pnginfo=text)
    np.testing.assert_array_equal(read_frame(path), levels)


def test_an_animated_png_is_no_frame(tmp_path, rng):
    pages = [Image.fromarray(rng.integers(0, 9, (6, 7), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="an animated PNG"):
        read_frame(tmp_path / "a.png")


@pytest.mark.parametrize("level", [-1, np.nan])
def test_a_mask_is_0_or_more(tmp_path, level):
    mask = np.zeros((6, 7), np.float32)
    mask[2, 3] = level
    write_image(tmp_path / "m.tif", mask)
    with pytest.raises(ValueError, match=f"a mask with 1 pixels of {level:g}"):
        read_mask(tmp_path / "m.tif", remarks=Remarks())


def test_masks_saved_with_loss_are_those_that_were_saved(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:23, 30:34] = 255
    for suffix, options in (
        ("jpg", {"quality": 75}),
        ("tif", {"compression": "jpeg"}),
        ("jp2", {"irreversible": True, "quality_layers": [8], "quality_mode": "rates"}),
        ("j2k", {"irreversible": False}),
    ):
        path = tmp_path / f"m.{suffix}"
        Image.fromarray(mask).save(path, **options)
        np.testing.assert_array_equal(read_mask(path), mask > 0, suffix)
    Image.fromarray(mask // 2).save(tmp_path / "half.jpg")
    with pytest.raises(ValueError, match="inexact, the highest is 1"):
        read_mask(tmp_path / "half.jpg")

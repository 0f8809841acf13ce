"""Every format at its own depth: exactly, or refused; the same levels whatever the container."""

import io
import warnings
from fractions import Fraction

import numpy as np
import pytest
import tifffile
from PIL import Image

from data.footage import open_footage
from data.formats.levels import grey_levels
from data.images import read_frame, read_mask
from data.remarks import DataWarning
from data.specs import get_spec
from tests.data.test_sequences import write_video

LEVELS = np.random.default_rng(5).integers(20000, 40000, (12, 16, 24)).astype(np.uint16)


def read_all(path):
    """All frames of the one sequence at a path."""
    (sequence,) = open_footage(get_spec("Frames"), path)
    return np.concatenate([block.frames for block in sequence.blocks(5)])


# Name: (what is written, what has to be read, options of the writer).
GREY = {"photometric": "minisblack"}
STACKS = {
    "16 bits": (LEVELS, LEVELS, GREY),
    "big-endian": (LEVELS, LEVELS, {**GREY, "byteorder": ">"}),
    "big file": (LEVELS, LEVELS, {**GREY, "bigtiff": True}),
    "zipped": (LEVELS, LEVELS, {**GREY, "compression": "zlib"}),
    "tiles": (LEVELS, LEVELS, {**GREY, "tile": (16, 16)}),
    "one directory": (LEVELS, LEVELS, {**GREY, "truncate": True}),
    "ImageJ": (LEVELS, LEVELS, {"imagej": True}),
    "OME": (LEVELS, LEVELS, {"ome": True, "metadata": {"axes": "TYX"}}),
    "colour": (np.stack([LEVELS, LEVELS // 2, LEVELS], -1), LEVELS, {"photometric": "rgb"}),
    "planes": (
        np.stack([LEVELS, LEVELS // 2, LEVELS], 1),
        LEVELS,
        {"photometric": "rgb", "planarconfig": "separate"},
    ),
    "white is 0": (65535 - LEVELS, LEVELS, {"photometric": "miniswhite"}),
    "white is 0, 8 bits": (
        (255 - LEVELS // 256).astype(np.uint8),
        (LEVELS // 256).astype(np.uint8),
        {"photometric": "miniswhite"},
    ),
    "signed bytes": (
        (LEVELS // 256 - 128).astype(np.int8),
        (LEVELS // 256).astype(np.float32) - 128,
        GREY,
    ),
    "signed": (
        (LEVELS.astype(int) - 30000).astype(np.int16),
        LEVELS.astype(np.float32) - 30000,
        GREY,
    ),
    "32 bits": (LEVELS.astype(np.uint32), LEVELS.astype(np.float32), GREY),
    "float16": ((LEVELS // 64).astype(np.float16), (LEVELS // 64).astype(np.float32), GREY),
    "float32": (LEVELS / np.float32(3), LEVELS / np.float32(3), GREY),
    "float64": (LEVELS / 3, (LEVELS / 3).astype(np.float32), GREY),
}


@pytest.mark.filterwarnings("ignore:.*a picture in colours")
@pytest.mark.parametrize("name", STACKS)
def test_a_tiff_gives_its_levels_as_a_stack_and_as_frames(tmp_path, name):
    written, expected, options = STACKS[name]
    tifffile.imwrite(tmp_path / "stack.tif", written, **options)
    frames = read_all(tmp_path / "stack.tif")
    assert frames.dtype == expected.dtype and np.array_equal(frames, expected)
    options = {key: value for key, value in options.items() if key != "metadata"}
    for number, frame in enumerate(written, start=1):
        (tmp_path / "frames").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"frames/{number:03d}.tif", frame, **options)
    if name == "planes":
        with pytest.raises(ValueError, match="one page of 3 planes"):
            read_all(tmp_path / "frames")
    else:
        assert np.array_equal(read_all(tmp_path / "frames"), expected)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressed_tiffs_keep_their_depth(tmp_path, compression):
    for levels in (LEVELS[0], (LEVELS[0] // 256).astype(np.uint8)):
        Image.fromarray(levels).save(tmp_path / "x.tif", compression=compression)
        assert np.array_equal(read_frame(tmp_path / "x.tif"), levels)


def test_three_frames_that_may_be_a_colour_picture_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", LEVELS[:3], photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match="one page of 3 planes, which may be that many frames"):
        read_all(tmp_path / "x.tif")


def test_a_tiff_that_promises_more_than_it_holds_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", LEVELS, photometric="minisblack", truncate=True)
    content = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(content[: -LEVELS[0].nbytes])
    with pytest.raises(ValueError, match="1 frame, but its description promises 12"):
        read_all(tmp_path / "x.tif")


def test_pages_of_reduced_size_are_no_frames(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for frame in LEVELS:
            file.write(frame, photometric="minisblack", metadata=None)
            file.write(frame[::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
    assert np.array_equal(read_all(tmp_path / "x.tif"), LEVELS)


def test_pages_that_differ_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(LEVELS[0], photometric="minisblack", metadata=None)
        file.write(LEVELS[0, ::2], photometric="minisblack", metadata=None)
    with pytest.raises(ValueError, match="frame 2: 8x24 pixels, but .*frame 1 has 16x24"):
        read_all(tmp_path / "x.tif")
    with tifffile.TiffWriter(tmp_path / "y.tif") as file:
        file.write(LEVELS[0], photometric="minisblack", metadata=None)
        file.write(LEVELS[0].astype(np.float32), photometric="minisblack", metadata=None)
    with pytest.raises(ValueError, match="frame 2: grey levels of type float32, but .* uint16"):
        read_all(tmp_path / "y.tif")


def test_levels_that_the_file_names_as_no_data_are_refused(tmp_path):
    levels = LEVELS.astype(np.float32)
    levels[3, 2, 2:5] = -3.4e38
    tag = (42113, "s", 0, "-9999", True)
    tifffile.imwrite(tmp_path / "x.tif", levels, photometric="minisblack")
    with pytest.raises(ValueError, match=r"-3.4e\+38, which mostly stands for no data, in 3 pix"):
        read_all(tmp_path / "x.tif")
    levels[3, 2, 2:5] = -9999
    tifffile.imwrite(tmp_path / "x.tif", levels, photometric="minisblack", extratags=[tag])
    with pytest.raises(ValueError, match="3 pixels of -9999, which the file names as no data"):
        read_all(tmp_path / "x.tif")
    tifffile.imwrite(tmp_path / "x.tif", levels, photometric="minisblack")
    with pytest.warns(DataWarning, match="x: a grey level of -9999, which may stand for no data"):
        read_all(tmp_path / "x.tif")


@pytest.mark.parametrize(("largest", "kind"), [(255, b"P5"), (16383, b"P5"), (16383, b"P2")])
def test_pgm_levels_are_not_stretched(tmp_path, largest, kind):
    levels = np.random.default_rng(1).integers(0, largest + 1, (5, 7))
    pixels = levels.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    text = " ".join(map(str, levels.ravel())).encode() + b"\n"
    header = kind + b"\n# thermal\n7 5\n%d\n" % largest
    (tmp_path / "x.pgm").write_bytes(header + (pixels if kind == b"P5" else text))
    assert np.array_equal(read_frame(tmp_path / "x.pgm"), levels)
    (tmp_path / "x.pgm").write_bytes((header + (pixels if kind == b"P5" else text))[:-9])
    with pytest.raises(ValueError, match="x.pgm: cannot be read as an image"):
        read_frame(tmp_path / "x.pgm")


def test_colours_and_palettes_of_eight_bits_give_their_first_channel(tmp_path):
    levels = (LEVELS[0] // 256).astype(np.uint8)
    grey = Image.fromarray(levels)
    colours = {
        "rgb.png": grey.convert("RGB"),
        "rgba.png": grey.convert("RGBA"),
        "la.png": grey.convert("LA"),
        "palette.png": grey.convert("P"),
        "cmyk.tif": grey.convert("RGB").convert("CMYK"),
        "x.webp": grey.convert("RGB"),
    }
    for name, image in colours.items():
        image.save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
        assert np.array_equal(read_frame(tmp_path / name), levels), name


def test_false_colours_are_said(tmp_path):
    levels = (LEVELS[0] // 256).astype(np.uint8)
    colours = np.stack([levels, 255 - levels, levels], -1)
    Image.fromarray(colours).save(tmp_path / "1.png")
    with pytest.warns(DataWarning, match="1.png: a picture in colours, of which the first"):
        read_all(tmp_path)
    tifffile.imwrite(tmp_path / "x.tif", np.stack([colours, colours]), photometric="rgb")
    np.save(tmp_path / "x.npy", np.stack([colours, colours]))
    for name in ("x.tif", "x.npy"):
        with pytest.warns(DataWarning, match=f"{name}: a picture in colours, of which the first"):
            assert np.array_equal(read_all(tmp_path / name)[1], levels)


def test_levels_that_float32_cannot_tell_apart_are_refused():
    fine = np.arange(100, dtype=np.int64) + (1 << 40)
    with pytest.raises(ValueError, match="int64 around 1.09.*cannot tell apart"):
        grey_levels(fine)
    coarse = fine * 0 + np.arange(100) * 60000
    assert np.array_equal(grey_levels(coarse), coarse.astype(np.float32))
    with pytest.raises(ValueError, match=r"a grey level of 1e\+300"):
        grey_levels(np.array([1e300, 2.0]))
    assert np.array_equal(grey_levels(np.full(5, 0.1)), np.full(5, 0.1, np.float32))


# Codec, pixel format, bits of the levels, and how far from them may be read.
VIDEOS = [
    ("ffv1", "gray", 8, 0),
    ("ffv1", "gray10le", 10, 1 / 1023),
    ("ffv1", "gray16le", 16, 0),
    ("ffv1", "yuv420p16le", 16, 2 / 65535),
    ("ffv1", "gbrp16le", 16, 0),
    ("png", "gray16be", 16, 0),
]


@pytest.mark.parametrize(("codec", "kind", "bits", "off"), VIDEOS)
def test_videos_keep_their_depth(tmp_path, codec, kind, bits, off):
    av = pytest.importorskip("av", reason="no decoder for videos; pip install av")
    levels = LEVELS >> (16 - bits)
    path = tmp_path / ("film.mov" if codec == "png" else "film.mkv")
    with av.open(str(path), "w") as video:
        stream = video.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 24, kind
        shown = "gray" if bits == 8 else "gray16le" if kind != "gray10le" else kind
        for frame in levels.astype(np.uint8) if bits == 8 else levels:
            picture = av.VideoFrame.from_ndarray(frame, format=shown)
            video.mux(stream.encode(picture.reformat(format=kind, threads=1)))
        video.mux(stream.encode())
    frames = read_all(path)
    assert frames.dtype == (np.uint8 if bits == 8 else np.uint16)
    scale = np.iinfo(frames.dtype).max
    difference = frames / scale - levels / ((1 << bits) - 1)
    assert np.abs(difference).max() <= off
    assert len(np.unique(frames)) > 0.8 * len(np.unique(levels))


@pytest.mark.parametrize("name", ["film.avi", "film.mkv"])
def test_a_video_that_is_cut_is_refused_or_said(tmp_path, name):
    frames = np.repeat((LEVELS // 256).astype(np.uint8), 4, axis=0)
    path = write_video(tmp_path / name, frames)
    content = path.read_bytes()
    for share in np.linspace(0.2, 0.9, 40):
        path.write_bytes(content[: int(share * len(content))])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                assert len(read_all(path)) < 48
            except ValueError as error:
                assert f"{name}: cannot be read as a video" in str(error)
            else:  # Matroska does not count frames
                promise = "48" if name.endswith("avi") else "1.92"
                assert f", but its header promises {promise}" in str(said[0].message)


def test_of_several_streams_of_pictures_the_first_is_read_and_said(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "two.mkv"), "w") as video:
        streams = [video.add_stream("ffv1", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 24, 18, "gray"
        for level in range(5):
            for stream, own in zip(streams, (level, 200), strict=True):
                picture = av.VideoFrame.from_ndarray(np.full((18, 24), own, np.uint8), "gray")
                video.mux(stream.encode(picture))
        for stream in streams:
            video.mux(stream.encode())
    with pytest.warns(UserWarning, match="2 streams of pictures; the first is read"):
        frames = read_all(tmp_path / "two.mkv")
    np.testing.assert_array_equal(frames[:, 0, 0], range(5))


def test_a_file_of_sound_alone_is_no_video(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = np.zeros((1, 4096), np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(ValueError, match="sound.mp4: cannot be read as a video .*no picture"):
        read_all(tmp_path / "sound.mp4")


def images_of_all_kinds():
    """{name: bytes} of small images in the formats that frames come in."""
    levels = LEVELS[0, :9, :11]
    small = (levels // 256).astype(np.uint8)
    images, files = Image.fromarray(small), {}

    def save(name, image, kind, **options):
        files[name] = io.BytesIO()
        image.save(files[name], kind, **options)

    save("grey.png", images, "PNG")
    save("deep.png", Image.fromarray(levels), "PNG")
    save("colour.png", images.convert("RGB"), "PNG")
    save("palette.png", images.convert("P"), "PNG")
    save("film.gif", images, "GIF", save_all=True, append_images=[images.point(lambda v: 255 - v)])
    save("one.gif", images, "GIF")
    for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate", None):
        save(f"{name}.tif", images, "TIFF", compression=name)
    for name, options in (("tiles", {"tile": (16, 16)}), ("plain", {}), ("big", {"bigtiff": True})):
        files[f"{name}.tif"] = io.BytesIO()
        tifffile.imwrite(files[f"{name}.tif"], levels, photometric="minisblack", **options)
    return {name: file.getvalue() for name, file in files.items()}


def damaged(rng, content):
    """The bytes with one or two changes: a bit, a byte, a piece put elsewhere, or an early end."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 3)):
        place = int(rng.integers(len(content)))
        change = rng.integers(4)
        if change == 0:
            content[place] ^= 1 << int(rng.integers(8))
        elif change == 1:
            content[place] = int(rng.integers(256))
        elif change == 2:
            content = content[: max(place, 8)]
        else:
            other, size = int(rng.integers(len(content))), int(rng.integers(1, 9))
            content[place : place + size] = content[other : other + size]
    return bytes(content)


def library_levels(path):
    """The first channel as the image library alone reads it, or None."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except Exception:  # any, of the damage
        return None
    return pixels if pixels.ndim == 2 else pixels[..., 0]


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_refused_in_one_line_or_read_as_a_second_decoder_does(tmp_path):
    """A longer run of this found nothing else in 10,000 files."""
    rng, compared = np.random.default_rng(4), 0
    for name, content in images_of_all_kinds().items():
        path = tmp_path / name
        for _ in range(60):
            path.write_bytes(damaged(rng, content))
            try:
                frame = read_frame(path)
                read_mask(path)
            except ValueError as error:
                assert name in str(error) and "\n" not in str(error)
                continue
            expected = library_levels(path)
            if expected is not None and frame.dtype == expected.dtype:
                turned = np.iinfo(frame.dtype).max - frame  # MinIsWhite, which the library forgets
                assert np.array_equal(frame, expected) or np.array_equal(turned, expected)
                compared += 1
    assert compared > 50


def test_good_images_are_read_without_a_word(tmp_path):
    for name, content in images_of_all_kinds().items():
        (tmp_path / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if name != "film.gif":
                assert read_frame(tmp_path / name).shape == (9, 11)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([1] * 30 + [7] + [1] * 20, "about 6 frames are missing, the first after frame 31"),
        ([1, 3] * 25, "frames come after 0.040 to 0.120 seconds, not at one rate"),
        ([1] * 50, None),
    ],
)
def test_frames_that_are_missing_in_a_video_are_said(tmp_path, steps, words):
    av = pytest.importorskip("av")
    path, time = tmp_path / "x.mkv", 0
    with av.open(str(path), "w") as video:
        stream = video.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 24, 18, "gray"
        for step in [0, *steps]:
            time += step
            picture = av.VideoFrame.from_ndarray(np.full((18, 24), 9, np.uint8), "gray")
            picture.pts, picture.time_base = time, Fraction(1, 25)
            video.mux(stream.encode(picture))
        video.mux(stream.encode())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert len(read_all(path)) == len(steps) + 1
    assert len(said) == (words is not None)
    assert words is None or words in str(said[0].message)


@pytest.mark.parametrize(("axes", "words"), [("TCYX", "6 frames, 2 channels"), ("TZYX", "slices")])
def test_stacks_of_two_kinds_are_refused(tmp_path, axes, words):
    levels = (LEVELS // 256).astype(np.uint8)[:12].reshape(6, 2, 16, 24)
    for name, kind in (("a.tif", "imagej"), ("a.ome.tif", "ome")):
        tifffile.imwrite(tmp_path / name, levels, metadata={"axes": axes}, **{kind: True})
        with pytest.raises(ValueError, match=words):
            read_all(tmp_path / name)

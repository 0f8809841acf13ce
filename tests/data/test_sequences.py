"""Test sequences: frames by range, their own mean and std, in the memory of a few blocks."""

import os
import tracemalloc
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from data.footage import open_footage
from data.formats.video import VideoFrames
from data.lists import find_sequences
from data.sequences import TestSequence, mean_std, open_sequences
from data.specs import get_spec
from tests.builders import write_image

LONG = 1500  # frames
SHAPE = 48, 64


@pytest.fixture(scope="module")
def long_frames():
    # Fewer than 256 levels: Pillow writes some GIF frames with a level changed else.
    return np.random.default_rng(3).integers(0, 200, (LONG, *SHAPE), dtype=np.uint8)


def write_video(path, frames, codec="ffv1", kind="gray"):
    """Writes frames as they are, in `kind`, a pixel format."""
    av = pytest.importorskip("av", reason="no decoder for videos; pip install av")
    with av.open(str(path), "w") as video:
        stream = video.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = kind
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=kind)))
        video.mux(stream.encode())
    return path


def write_form(root, form, frames):
    """Writes frames in one of the forms that own footage comes in; returns the path."""
    if form == "folder":
        for number, frame in enumerate(frames, start=1):
            write_image(root / "long" / f"{number:05d}.png", frame)
        return root / "long"
    if form == "npy":
        np.save(root / "long.npy", frames)
        return root / "long.npy"
    if form == "video":
        return write_video(root / "long.avi", frames)
    if form == "tif":  # Pillow's time for that many pages grows with their square
        tifffile.imwrite(root / "long.tif", frames, photometric="minisblack", metadata=None)
        return root / "long.tif"
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(root / "long.gif", save_all=True, append_images=pages[1:])
    return root / "long.gif"


def open_one(path, normalisation=None):
    (sequence,) = open_footage(get_spec("Frames"), path, normalisation)
    return sequence


@pytest.mark.parametrize("form", ["folder", "npy", "video", "tif", "gif"])
def test_a_long_sequence_is_read_in_the_memory_of_a_few_blocks(tmp_path, long_frames, form):
    path = write_form(tmp_path, form, long_frames)
    sequence = open_one(path)
    assert len(sequence) == LONG
    if form in ("tif", "gif"):  # slow to look through twice while memory is traced
        expected = sequence.normalisation
    tracemalloc.start()
    if form not in ("tif", "gif"):
        expected = sequence.normalisation
    count = 0
    for block in sequence.blocks(40):
        assert block.start == count and block.masks is None
        np.testing.assert_array_equal(block.frames, long_frames[count : count + 40])
        count += len(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == LONG
    np.testing.assert_allclose(expected, [long_frames.mean(), long_frames.std()], rtol=1e-12)
    # What names and pages of its frames take comes on top: far less than the frames themselves
    # at any useful size.
    assert peak < 15 * 40 * long_frames[0].nbytes + 700 * LONG


@pytest.mark.parametrize("form", ["folder", "npy", "video", "tif", "gif"])
def test_any_range_is_what_the_blocks_give(tmp_path, rng, form):
    frames = rng.integers(0, 256, (23, 12, 20), dtype=np.uint8)
    sequence = open_one(write_form(tmp_path, form, frames))
    for start, stop in ((5, 9), (0, 4), (20, 40), (7, 8), (0, 23)):
        np.testing.assert_array_equal(sequence.read(start, stop).frames, frames[start:stop])
    for size in (1, 7, 22, 23, 24):
        blocks = list(sequence.blocks(size))
        assert [block.start for block in blocks] == list(range(0, 23, size))
        np.testing.assert_array_equal(np.concatenate([b.frames for b in blocks]), frames)
    with pytest.raises(ValueError, match=r"no frames \[23, 30\) among its 23"):
        sequence.read(23, 30)


def test_ranges_may_be_read_while_blocks_are(tmp_path, rng):
    frames = rng.integers(0, 256, (23, 12, 20), dtype=np.uint8)
    for form in ("gif", "video"):
        sequence = open_one(write_form(tmp_path, form, frames))
        for block in sequence.blocks(5):
            np.testing.assert_array_equal(sequence.read(2, 9).frames, frames[2:9])
            np.testing.assert_array_equal(block.frames, frames[block.start : block.start + 5])


def test_labels_come_by_range_with_their_frames(nudt):
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.test, nudt)
    for sequence in open_sequences(files, (spec.mean, spec.std)):
        assert sequence.labelled and sequence.normalisation == (spec.mean, spec.std)
        whole = sequence.read(0, len(sequence))
        assert whole.masks.max() == 1 and whole.masks.shape == whole.frames.shape
        for block in sequence.blocks(3):
            part = slice(block.start, block.start + len(block))
            np.testing.assert_array_equal(block.frames, whole.frames[part])
            np.testing.assert_array_equal(block.masks, whole.masks[part])
            np.testing.assert_array_equal(block.centroids, whole.centroids[part])


def with_mix(nudt, name, mix):
    """What is said of a set whose sequences have such a Mix file, and their earlier frames."""
    for sequence in ("Sequence47", "Sequence85"):
        folder = nudt / sequence / "Mix"
        folder.mkdir(exist_ok=True)
        first = np.asarray(Image.open(nudt / sequence / "images/00001.png"))
        if name is not None:
            savemat(folder / name, {"Mix": mix(first)})
    spec = get_spec("NUDT-MIRSDT")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        files = find_sequences(spec, spec.test, nudt)
        earlier = [each.earlier for each in open_sequences(files, (spec.mean, spec.std))]
    return [str(warning.message) for warning in said], earlier


def five(first):
    """As the published files: four simulated frames, which differ, and the first one."""
    return np.stack([first // 2, first // 3, first // 4, first // 5, first])


@pytest.mark.parametrize("name", ["00001.mat", "1.mat", "frame_001.MAT"])
def test_a_mix_file_is_found_by_name_or_number(nudt, name):
    said, earlier = with_mix(nudt, name, five)
    assert said == [] and [len(frames) for frames in earlier] == [4, 4]
    first = np.asarray(Image.open(nudt / "Sequence47/images/00001.png"))
    np.testing.assert_array_equal(earlier[0], five(first)[:4])


def test_mix_files_counted_from_0_are_paired_as_masks_are(nudt):
    for name, count in (("Sequence47", 41), ("Sequence85", 7)):
        (nudt / name / "Mix").mkdir()
        for number in range(count):
            frame = np.asarray(Image.open(nudt / name / f"images/{number + 1:05d}.png"))
            savemat(nudt / name / f"Mix/{number}.mat", {"Mix": five(frame)})
    (line,), earlier = with_mix(nudt, None, None)
    assert "00001.png is paired with 0.mat" in line
    first = np.asarray(Image.open(nudt / "Sequence47/images/00001.png"))
    np.testing.assert_array_equal(earlier[0], five(first)[:4])


@pytest.mark.parametrize("name", [None, "x.mat", "00002.mat", "00001.txt"])
def test_a_mix_folder_of_which_nothing_is_used_is_told_once(nudt, name):
    (line,), earlier = with_mix(nudt, name, five)
    assert f"{nudt}/Sequence47/Mix: not used, as for 2 of 2 test sequences" in line
    assert line.endswith("expected 00001.mat") and earlier == [None, None]


def test_a_mix_file_with_no_earlier_frame_is_told(nudt):
    (line,), earlier = with_mix(nudt, "1.mat", lambda first: first[None])
    assert "Mix/1.mat: one frame, and none before it" in line and earlier == [None, None]


@pytest.mark.parametrize(
    "mix",
    [
        lambda first: five(first)[::-1],
        lambda first: five(first) / 255,
        lambda first: five(first)[..., ::-1],
        lambda first: five(first.astype(float) + 1),
    ],
    ids=["newest first", "0 to 1", "mirrored", "one level off"],
)
def test_a_mix_file_that_is_not_of_the_first_frame_is_told_once(nudt, mix):
    (line,), earlier = with_mix(nudt, "00001.mat", mix)
    folder = nudt / "Sequence47"
    assert f"{folder}/Mix/00001.mat: its last frame is not {folder}/images/00001.png" in line
    assert "grey levels are up to" in line and len(earlier[1]) == 4


def test_mix_levels_as_floats_are_the_same_levels(nudt):
    said, _ = with_mix(nudt, "00001.mat", lambda first: five(first).astype(np.float32) + 0.01)
    assert said == []


def test_frames_before_the_first_are_resized_as_frames_are(nudt):
    with_mix(nudt, "00001.mat", five)
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.test, nudt)
    sequence = next(iter(open_sequences(files, (100, 25), (16, 24))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sequence.earlier.shape == (4, 16, 24)
    assert sequence.read(0, 1).frames.shape == (1, 16, 24)


def test_a_share_holds_some_of_the_sequences(nudt):
    spec = get_spec("NUDT-MIRSDT")
    sequences = spec.open(spec, nudt, None)
    assert len(sequences) == 2 and sequences.names == ["Sequence47", "Sequence85"]
    share = sequences.share(lambda items: items[1::2])
    assert share.names == ["Sequence85"] and [len(sequence) for sequence in share] == [7]


def test_opening_decodes_nothing(nudt, monkeypatch):
    spec = get_spec("NUDT-MIRSDT")
    for path in (nudt / "Sequence47/images").iterdir():
        path.write_bytes(b"no image")
    sequences = spec.open(spec, nudt, None)
    assert [len(sequence) for sequence in sequences] == [41, 7]
    with pytest.raises(ValueError, match="00001.png: cannot be read as an image"):
        next(iter(sequences)).read(0, 1)


def test_frames_keep_their_number_and_their_file(tmp_path, rng, nudt):
    frame = rng.integers(0, 256, (8, 9), dtype=np.uint8)
    for number in (117, 118, 300):
        write_image(tmp_path / "cam" / f"cam_{number:04d}.png", frame)
    sequence = open_one(tmp_path / "cam")
    assert sequence.numbers == (117, 118, 300)
    assert sequence.file_names == ("cam_0117.png", "cam_0118.png", "cam_0300.png")
    np.save(tmp_path / "two.npy", np.stack([frame, frame]))
    sequence = open_one(tmp_path / "two.npy")
    assert sequence.numbers == (1, 2) and sequence.file_names is None
    spec = get_spec("NUDT-MIRSDT")
    sequence = next(iter(spec.open(spec, nudt, None)))
    assert sequence.numbers == tuple(range(1, 42)) and sequence.file_names[0] == "00001.png"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_mean_and_std_of_blocks_are_those_of_all(rng, dtype):
    frames = (rng.normal(200, 20, (37, 11, 13)) % 256).astype(dtype)
    for size in (1, 8, 36, 37, 100):
        blocks = (frames[start : start + size] for start in range(0, 37, size))
        expected = frames.astype(np.float64)
        np.testing.assert_allclose(mean_std(blocks), (expected.mean(), expected.std()), rtol=1e-12)


def test_grey_levels_that_are_no_numbers_are_named(tmp_path, rng):
    frames = rng.random((9, 4, 5)).astype(np.float32)
    frames[6, 2, 2] = np.nan
    np.save(tmp_path / "x.npy", frames)
    for use in (lambda s: s.normalisation, lambda s: s.read(5, 9), lambda s: list(s.blocks(4))):
        with pytest.raises(
            ValueError, match="x: a grey level is NaN or infinite, in 1 pixels of .*x.npy, frame 7"
        ):
            use(open_one(tmp_path / "x.npy"))
    assert len(open_one(tmp_path / "x.npy", (0, 1)).read(0, 6)) == 6


def test_masks_of_another_number_or_size_are_refused(tmp_path, rng):
    frames = rng.integers(0, 256, (5, 6, 7), dtype=np.uint8)
    for masks in (np.zeros((4, 6, 7), np.uint8), np.zeros((6, 6, 7), np.uint8)):
        np.savez(tmp_path / "x.npz", frames=frames, masks=masks)
        with pytest.raises(ValueError, match=f"5 frames, but {len(masks)} masks"):
            open_one(tmp_path / "x.npz").read(0, 5)
    np.savez(tmp_path / "x.npz", frames=frames, masks=np.zeros((5, 7, 6), np.uint8))
    with pytest.raises(ValueError, match="7x6 pixels, but .* has 6x7"):
        open_one(tmp_path / "x.npz").read(0, 5)


def test_centroids_alone_are_the_masks_too():
    class Source:
        paths = None

        def __init__(self, array):
            self.read = lambda start, stop: array[start:stop]
            self.fresh = lambda: self
            self.place = str
            self.array = array

        def __len__(self):
            return len(self.array)

    centroids = np.eye(4, dtype=np.uint8)[None]
    sequence = TestSequence("s", Source(centroids * 9), (None, Source(centroids)))
    block = sequence.read(0, 1)
    assert sequence.labelled and block.masks is block.centroids


def test_frames_of_another_depth_or_size_are_refused_in_whichever_block(tmp_path, rng):
    frame = rng.integers(0, 256, (6, 7), dtype=np.uint8)
    other = {"deep": frame.astype(np.uint16) * 9, "small": frame[:5]}
    for name, odd in other.items():
        for number in range(1, 41):
            write_image(tmp_path / name / f"{number}.png", frame if number < 33 else odd)
        message = {"deep": "33.png: grey levels of type uint16", "small": "33.png: 5x7 pixels"}[
            name
        ]
        for use in (lambda s: s.normalisation, lambda s: list(s.blocks(8))):
            with pytest.raises(ValueError, match=message):
                use(open_one(tmp_path / name))
    sequence = open_one(tmp_path / "deep")
    assert sequence.read(0, 8).frames.dtype == np.uint8
    with pytest.raises(ValueError, match="33.png: grey levels of type uint16"):
        sequence.read(32, 40)


def test_names_from_another_country_are_opened_and_can_be_written(tmp_path, rng):
    folder = tmp_path / os.fsdecode("红外\n1".encode("gb18030"))
    for number in range(3):
        name = os.fsdecode(f"帧{number}.png".encode("gb18030"))
        write_image(folder / name, rng.integers(0, 256, (6, 7), dtype=np.uint8))
    (sequence,) = open_footage(get_spec("Frames"), tmp_path)
    assert len(sequence.read(0, 3)) == 3
    for name in (sequence.name, *sequence.file_names):
        assert name.encode("utf-8") and name.isprintable()


def test_a_video_is_decoded_once_for_its_statistics_and_once_for_its_blocks(
    tmp_path, rng, monkeypatch
):
    path = write_video(tmp_path / "x.avi", rng.integers(0, 256, (20, 16, 24), dtype=np.uint8))
    decoded, decode = [], VideoFrames._decode

    def counted(self):
        decoded.append(self)
        return decode(self)

    monkeypatch.setattr(VideoFrames, "_decode", counted)
    sequence = open_one(path)
    assert len(sequence.normalisation) == 2 and sequence.numbers[-1] == len(sequence) == 20
    assert [len(block) for block in sequence.blocks(10)] == [10, 10]
    assert len(decoded) == 2

"""Own footage: every form it may come in, and what is said about footage that cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.clips import normalise_into
from data.footage import open_footage
from data.lists import find_sequence, find_sequences
from data.remarks import DataWarning
from data.sequences import open_sequences
from data.specs import get_spec
from models import build_model
from models.fused import fuse
from tests.builders import write_image

FRAMES = 9


@pytest.fixture
def frames(rng):
    """A dim scene with one bright pixel that moves along the diagonal, (9, 19, 21) uint8."""
    frames = rng.integers(60, 70, (FRAMES, 19, 21), dtype=np.uint8)
    frames[np.arange(FRAMES), np.arange(FRAMES) + 5, np.arange(FRAMES) + 6] = 250
    return frames


def write_folder(folder, frames, pattern="{:05d}.png"):
    for number, frame in enumerate(frames, start=1):
        write_image(folder / pattern.format(number), frame)
    return folder


def write_pages(path, frames):
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def open_all(path, normalisation=None):
    return list(open_footage(get_spec("Frames"), path, normalisation))


def whole(sequence):
    """All of a sequence as one block."""
    return sequence.read(0, len(sequence))


def write_forms(root, frames):
    """Every form of the same frames: {name: path}."""
    np.save(root / "array.npy", frames)
    np.savez(root / "array.npz", frames=frames)
    np.savez(root / "only.npz", whatever=frames)
    np.save(root / "colour.npy", np.stack([frames, frames // 2, frames // 3], axis=-1))
    rgb = np.stack([frames, frames // 2, frames // 3], axis=-1)
    write_folder(root / "nested" / "images", frames)
    return {
        "folder": write_folder(root / "folder", frames),
        "unpadded numbers": write_folder(root / "unpadded", frames, "frame{}.bmp"),
        "colour folder": write_folder(root / "rgb", rgb),
        "folder with images/": root / "nested",
        "images/ itself": root / "nested" / "images",
        "tiff": write_pages(root / "pages.tif", frames),
        "gif": write_pages(root / "film.gif", frames),
        "npy": root / "array.npy",
        "npz": root / "array.npz",
        "npz of one array": root / "only.npz",
        "colour npy": root / "colour.npy",
    }


def test_every_form_gives_the_same_frames(tmp_path, frames):
    for form, path in write_forms(tmp_path, frames).items():
        (sequence,) = open_all(path)
        block = whole(sequence)
        np.testing.assert_array_equal(block.frames, frames, form)
        assert not sequence.labelled and block.masks is None and block.centroids is None, form


def test_more_than_nine_unpadded_frames_come_in_the_order_of_their_numbers(tmp_path):
    frames = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 4), np.uint8)
    (sequence,) = open_all(write_folder(tmp_path / "s", frames, "{}.png"))
    np.testing.assert_array_equal(whole(sequence).frames, frames)


@pytest.mark.parametrize("form", ["folder", "tiff", "npy"])
def test_sixteen_bits_are_kept(tmp_path, frames, form):
    deep = frames.astype(np.uint16) * 257
    path = tmp_path / "deep.npy"
    if form == "folder":
        path = write_folder(tmp_path / "deep", deep)
    elif form == "tiff":
        path = write_pages(tmp_path / "deep.tif", deep)
    else:
        np.save(path, deep)
    (sequence,) = open_all(path)
    block = whole(sequence)
    assert block.frames.dtype == np.uint16
    np.testing.assert_array_equal(block.frames, deep)
    mean, std = sequence.normalisation
    np.testing.assert_allclose([mean, std], [deep.mean(), deep.std()], rtol=1e-9)


def test_a_folder_of_sequences_gives_each_by_name_with_masks_where_there_are(tmp_path, frames):
    write_folder(tmp_path / "b" / "images", frames)
    write_folder(tmp_path / "b" / "masks", (frames == 250).astype(np.uint8))
    write_folder(tmp_path / "a", frames[:3])
    np.save(tmp_path / "c.npy", frames[:1])
    (tmp_path / "notes.txt").touch()
    sequences = open_all(tmp_path)
    assert [sequence.name for sequence in sequences] == ["a", "b", "c"]
    assert [sequence.labelled for sequence in sequences] == [False, True, False]
    np.testing.assert_array_equal(whole(sequences[1]).centroids, frames == 250)


def test_a_folder_of_arrays_of_a_frame_each_is_one_sequence(tmp_path, frames):
    for number, frame in enumerate(frames, 1):
        np.save(tmp_path / f"f{number}.npy", frame)
    (sequence,) = open_all(tmp_path)
    np.testing.assert_array_equal(whole(sequence).frames, frames)
    assert sequence.file_names[8] == "f9.npy"
    np.save(tmp_path / "f3.npy", frames[2].T)
    with pytest.raises(ValueError, match="f3.npy: 21x19 pixels, but .*f1.npy has 19x21"):
        whole(sequence)


def test_masks_beside_their_footage_are_no_footage(tmp_path, frames):
    np.save(tmp_path / "clip1.npy", frames)
    np.save(tmp_path / "clip1_masks.npy", frames > 100)
    with pytest.raises(ValueError, match="clip1_masks is named as the masks of another sequence"):
        open_all(tmp_path)
    write_folder(tmp_path / "folders" / "clip", frames)
    write_folder(tmp_path / "folders" / "clip_mask", frames)
    with pytest.raises(ValueError, match="clip_mask is named as the masks"):
        open_all(tmp_path / "folders")


def test_a_picture_beside_arrays_is_ignored_and_told(tmp_path, frames):
    for number, frame in enumerate(frames):
        np.save(tmp_path / f"{number:03d}.npy", frame)
    write_image(tmp_path / "preview.png", frames[0])
    with pytest.warns(DataWarning, match="preview.png ignored beside arrays"):
        (sequence,) = open_all(tmp_path)
    np.testing.assert_array_equal(whole(sequence).frames, frames)


@pytest.mark.parametrize("arrays", (("images",), ("masks",), ("images", "masks")))
def test_frames_and_masks_may_be_an_array_each(tmp_path, frames, arrays):
    parts = {"images": frames, "masks": (frames > 100).astype(np.uint8)}
    for name, levels in parts.items():
        write_folder(tmp_path / "s" / name, levels)
        for path, level in zip(sorted((tmp_path / "s" / name).iterdir()), levels, strict=True):
            if name in arrays:
                np.save(path.with_suffix(".npy"), level)
                path.unlink()
    for place in (tmp_path / "s", tmp_path):  # itself, and as one of several
        (sequence,) = open_all(place)
        block = whole(sequence)
        assert sequence.name == "s"
        np.testing.assert_array_equal(block.frames, frames)
        np.testing.assert_array_equal(block.masks, parts["masks"])


def test_a_constant_frame_is_not_divided_by_zero(tmp_path):
    np.save(tmp_path / "flat.npy", np.full((1, 4, 5), 7, np.uint8))
    (sequence,) = open_all(tmp_path / "flat.npy")
    assert sequence.normalisation == (7, 1)


def test_video_frames_come_as_grey_levels(tmp_path, frames):
    av = pytest.importorskip("av", reason="no decoder for videos; pip install av")
    path = tmp_path / "film.avi"
    large = frames.repeat(4, axis=1).repeat(4, axis=2)[:, :64, :64]
    with av.open(str(path), "w") as video:
        stream = video.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        for frame in large:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        video.mux(stream.encode())
    (sequence,) = open_all(path)
    np.testing.assert_array_equal(whole(sequence).frames, large)


def test_own_footage_cannot_be_trained_on(tmp_path):
    with pytest.raises(ValueError, match="no training and test lists"):
        find_sequences(get_spec("Frames"), get_spec("Frames").train, tmp_path)


def test_released_weights_find_the_drone_in_most_frames_of_its_images(shared, released, tmp_path):
    """The first 40 frames of real footage, nothing but the images."""
    source = shared / "real/IR_DRONE_141"
    if not source.is_dir():
        pytest.skip(f"no real footage in {source}")
    model = build_model("DeepPro", 40)
    run = "NUDT-MIRSDT__2024-12-28_16-21__SoftLoUloss_DeepPro_DataL40"
    model.load_state_dict(released(run)["model_state_dict"])
    clip = tmp_path / "clip"
    clip.mkdir()
    for path in sorted((source / "images").iterdir())[:40]:
        (clip / path.name).symlink_to(path)
    (sequence,) = open_all(clip)
    window = torch.from_numpy(normalise_into(whole(sequence).frames, *sequence.normalisation))[None]
    with torch.inference_mode():
        scores = torch.sigmoid(fuse(model.eval())(window[None]))[0].numpy()
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequence(spec, spec.test, shared / "real", "IR_DRONE_141")
    (labels,) = open_sequences([files], (0, 1))
    masks = labels.read(0, 40).masks
    labelled = masks.any(axis=(1, 2))
    found = (scores * masks).max(axis=(1, 2)) >= 0.5
    assert found[labelled].mean() > 0.9

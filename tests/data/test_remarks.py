"""What is said about masks, grey levels and folders that may not be what was meant."""

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches import Batches
from data.clips import ClipOptions, TrainClips
from data.footage import open_footage
from data.images import read_mask
from data.lists import find_sequences
from data.remarks import DataWarning, Remarks
from data.specs import get_spec
from tests.builders import random_sequence, write_image, write_list, write_nudt_sequence
from tests.report.scored import in_processes
from utils.process import Group

MASK = np.zeros((20, 30), np.uint8)
MASK[5:8, 10:13] = MASK[14:16, 20:22] = 1
WHITE = MASK * np.uint8(255)
OPAQUE = np.full_like(WHITE, 255)


def colours(red, green, blue, alpha=None):
    channels = [red, green, blue] + ([] if alpha is None else [alpha])
    return Image.fromarray(np.stack(channels, axis=-1))


def palette(indices, *entries):
    image = Image.fromarray(indices, "L").convert("P")
    image.putpalette([level for entry in entries for level in entry])
    image.putdata(indices.ravel().tolist())
    return image


DARK = MASK * 0
MASKS = {
    "0 and 1": Image.fromarray(MASK),
    "0 and 255": Image.fromarray(WHITE),
    "one bit": Image.fromarray(MASK.astype(bool)),
    "16 bits": Image.fromarray(MASK.astype(np.uint16) * 65535),
    "red": colours(WHITE, DARK, DARK),
    "green": colours(DARK, WHITE, DARK),
    "blue": colours(DARK, DARK, WHITE),
    "opaque colours": colours(WHITE, WHITE, WHITE, OPAQUE),
    "alpha alone": colours(DARK, DARK, DARK, WHITE),
    "white on nothing": colours(OPAQUE, OPAQUE, OPAQUE, WHITE),
    "palette, background first": palette(MASK, (0, 0, 0), (128, 0, 0)),
    "palette, target first": palette(1 - MASK, (255, 255, 255), (0, 0, 0)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MASKS)
def test_masks_are_read_by_what_is_seen_of_them(tmp_path, name):
    MASKS[name].save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", None, Remarks()), MASK)


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_the_targets_of_a_jpeg_mask_are_those_drawn_and_its_loss_is_said(tmp_path, quality):
    Image.fromarray(WHITE).save(tmp_path / "mask.jpg", quality=quality)
    with pytest.warns(DataWarning, match="mask.jpg: a mask saved with loss"):
        assert np.array_equal(read_mask(tmp_path / "mask.jpg", None, Remarks()), MASK)
    Image.fromarray(MASK).save(tmp_path / "mask.jpg", quality=95)
    if read_mask_or_none(tmp_path / "mask.jpg") is not None:  # 1 may be rounded away
        assert not read_mask(tmp_path / "mask.jpg").any()


def read_mask_or_none(path):
    try:
        return read_mask(path)
    except ValueError as error:
        assert "save masks as PNG" in str(error)


def test_masks_that_look_like_something_else_are_said(tmp_path):
    write_image(tmp_path / "levels.png", MASK * 7 + np.pad(MASK, ((0, 0), (3, 0)))[:, :30])
    with pytest.warns(DataWarning, match=r"levels.png: a mask of more than two levels \(0, 1 to 7"):
        read_mask(tmp_path / "levels.png", None, Remarks())
    write_image(tmp_path / "inverted.png", 255 - WHITE)
    with pytest.warns(DataWarning, match="inverted.png: 97 % of the mask is above 0"):
        read_mask(tmp_path / "inverted.png", None, Remarks())


def test_a_remark_of_one_kind_is_made_once_for_a_data_set():
    remarks = Remarks()
    with pytest.warns(DataWarning) as said:
        for name in ("a", "b"):
            remarks.make("kind", f"{name}: seen")
        remarks.make("other kind", "c: seen")
    assert [str(each.message) for each in said] == ["a: seen", "c: seen"]


def write_labelled(root, frames, masks, centroids=None):
    for folder, stack in (("images", frames), ("masks", masks), ("masks_centroid", centroids)):
        for number, picture in enumerate(() if stack is None else stack, start=1):
            write_image(root / folder / f"{number:05d}.png", picture)


def test_centroids_that_do_not_go_with_the_masks_are_said(tmp_path, rng):
    frames, masks = random_sequence(rng, 6, 20, 30)
    elsewhere = np.roll(masks, 9, axis=2)
    cases = {"a centroid where .* has no target": elsewhere, "no centroid, though": 0 * masks}
    for index, (message, centroids) in enumerate(cases.items()):
        write_labelled(tmp_path / f"s{index}", frames, masks, centroids)
        with pytest.warns(DataWarning, match=message):
            for sequence in open_footage(get_spec("Frames"), tmp_path / f"s{index}"):
                list(sequence.blocks(4))
    write_labelled(tmp_path / "beside", frames, masks, np.roll(masks, 1, axis=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sequence in open_footage(get_spec("Frames"), tmp_path / "beside"):
            list(sequence.blocks(4))


def test_a_test_without_any_target_says_so_at_its_end(tmp_path, rng):
    frames, masks = random_sequence(rng, 6, 20, 30)
    for name in "ab":
        write_labelled(tmp_path / name, frames, 0 * masks)
    sequences = open_footage(get_spec("Frames"), tmp_path)
    for sequence in sequences:
        list(sequence.blocks(4))
    with pytest.warns(DataWarning, match="a: no target in any mask of the test"):
        sequences.tell_targets(Group())


@pytest.mark.parametrize("targets_in", ["", "a", "b"])
def test_processes_that_share_a_test_say_together_that_there_is_no_target(
    tmp_path, rng, targets_in
):
    frames, masks = random_sequence(rng, 6, 20, 30)
    for name in "ab":
        write_labelled(tmp_path / name, frames, masks * np.uint8(name == targets_in))

    def work(group):
        sequences = open_footage(get_spec("Frames"), tmp_path)
        for sequence in sequences.share(group.shard):
            list(sequence.blocks(4))
        sequences.tell_targets(group)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        in_processes(2, work)
    found = [str(each.message) for each in said]
    assert found == ([] if targets_in else ["a: no target in any mask of the test"])


@pytest.mark.parametrize(
    ("levels", "far"),
    [
        (lambda frames: frames, False),
        (lambda frames: frames // 8, False),  # dark and flat, but 8 bits
        (lambda frames: frames.astype(np.uint16) * 200, True),
        (lambda frames: frames / np.float32(255), True),
    ],
)
def test_grey_levels_far_from_mean_and_std_are_said_in_test_and_training(
    tmp_path, rng, levels, far
):
    frames, masks = random_sequence(rng, 12, 20, 30)
    suffix = "tif" if levels(frames).dtype == np.float32 else "png"
    for number, (frame, mask) in enumerate(zip(levels(frames), masks, strict=True), start=1):
        write_image(tmp_path / f"s/images/{number:05d}.{suffix}", frame)
        write_image(tmp_path / f"s/masks/{number:05d}.png", mask)
    for split in ("train", "test"):
        write_list(tmp_path / f"{split}.txt", ["s"])
    spec = get_spec("NUDT-MIRSDT")
    (files,) = find_sequences(spec, spec.train, tmp_path, ["s"])
    clips = TrainClips([files], spec.mean, spec.std, ClipOptions(10, 6, 1.0, 3))

    def test():
        for sequence in spec.open(spec, tmp_path):
            list(sequence.blocks(5))

    for check in (clips.check, test):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check()
        found = [str(each.message) for each in said if "far from the mean" in str(each.message)]
        assert len(found) == far and all(f"00001.{suffix}: grey" in line for line in found)


@pytest.mark.parametrize("level", [0, 100])
def test_frames_of_one_grey_level_are_said(tmp_path, rng, level):
    frames, masks = random_sequence(rng, 12, 20, 30)
    write_nudt_sequence(tmp_path, "s", np.full_like(frames, level), masks)
    write_list(tmp_path / "test.txt", ["s"])
    spec = get_spec("NUDT-MIRSDT")
    with pytest.warns(DataWarning, match=f"00001.png: all pixels have the grey level {level};"):
        for sequence in spec.open(spec, tmp_path):
            list(sequence.blocks(5))


def test_a_training_set_without_any_target_is_refused(tmp_path, rng):
    frames, masks = random_sequence(rng, 12, 20, 30)
    write_nudt_sequence(tmp_path, "s", frames, 0 * masks)
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.train, tmp_path, ["s"])
    clips = TrainClips(files, spec.mean, spec.std, ClipOptions(10, 6, 1.0, 3))
    with pytest.raises(ValueError, match="s/masks: no target in any mask of the 1 training seq"):
        Batches(clips, 1, 0, 1, 0, torch.device("cpu"))


def test_a_list_that_names_some_frames_and_sequences_in_both_lists_are_said(tmp_path, rng):
    write_nudt_sequence(tmp_path, "s", *random_sequence(rng, 12, 20, 30))
    (tmp_path / "train.txt").write_text("s/images/00001.png\ns/images/00002.png\n")
    (tmp_path / "test.txt").write_text("s\n")
    spec = get_spec("NUDT-MIRSDT")
    with pytest.warns(DataWarning) as said:
        find_sequences(spec, spec.train, tmp_path)
    lines = sorted(str(each.message) for each in said)
    assert "1 of its sequences are in the test list, too, s for one" in lines[0]
    assert "names 2 of the 12 frames of s; whole sequences are taken" in lines[1]


def open_names(path):
    return [sequence.name for sequence in open_footage(get_spec("Frames"), path)]


def test_a_linked_folder_keeps_the_name_of_the_link(tmp_path, rng):
    frames, _ = random_sequence(rng, 3, 8, 9)
    (tmp_path / "all").mkdir()
    for year in ("2024", "2025"):
        write_labelled(tmp_path / year / "x", frames, frames)
        os.rename(tmp_path / year / "x/images", tmp_path / year / "frames")
        os.symlink(tmp_path / year / "frames", tmp_path / "all" / f"cam_{year}")
    assert open_names(tmp_path / "all") == ["cam_2024", "cam_2025"]
    assert open_names(tmp_path / "2024/frames") == ["2024"]


@pytest.mark.parametrize("images", ["images", "img", "frames", "imgs", "IMAGES"])
@pytest.mark.parametrize("masks", ["masks", "mask", "labels", "GT"])
def test_folders_of_frames_and_masks_go_by_several_names(tmp_path, rng, images, masks):
    frames, labels = random_sequence(rng, 3, 8, 9)
    for number in range(3):
        write_image(tmp_path / "s" / images / f"{number}.png", frames[number])
        write_image(tmp_path / "s" / masks / f"{number}.png", labels[number])
    for path in (tmp_path, tmp_path / "s", tmp_path / "s" / images):
        (sequence,) = open_footage(get_spec("Frames"), path)
        assert sequence.name == "s" and sequence.labelled


def test_what_would_have_to_be_guessed_is_refused(tmp_path, rng):
    frames, masks = random_sequence(rng, 3, 8, 9)
    np.save(tmp_path / "film.npy", frames)
    write_image(tmp_path / "thumb.png", frames[0])
    with pytest.raises(ValueError, match="thumb.png beside film.npy; expected the frames of one"):
        open_names(tmp_path)
    write_labelled(tmp_path / "two/s", frames, masks)
    os.rename(tmp_path / "two/s/masks", tmp_path / "two/s/GT")
    write_labelled(tmp_path / "two/s", frames[:0], masks)
    with pytest.raises(ValueError, match="GT, masks; expected one of them"):
        open_names(tmp_path / "two/s")
    write_image(tmp_path / "only/masks/1.png", masks[0])
    with pytest.raises(ValueError, match="only: masks but no frames beside it in a folder"):
        open_names(tmp_path / "only")
    for name in ("frames", "masks"):
        (tmp_path / "files").mkdir(exist_ok=True)
        np.save(tmp_path / f"files/{name}.npy", frames)
    with pytest.raises(ValueError, match="files: masks.npy but no frames beside it"):
        open_names(tmp_path / "files")
    write_image(tmp_path / "deep/2024/cam/1.png", masks[0])
    with pytest.raises(ValueError, match="no readable frame.*; there are images in .*/2024/cam"):
        open_names(tmp_path / "deep")


def test_what_is_left_out_is_said(tmp_path, rng):
    frames, masks = random_sequence(rng, 3, 8, 9)
    write_labelled(tmp_path / "s", frames, masks[:0])
    (tmp_path / "s/masks").mkdir()
    np.save(tmp_path / "s/masks/1.npy", masks)
    with pytest.warns(DataWarning, match="s/masks: no image in it; s has no masks"):
        open_names(tmp_path / "s")
    write_image(tmp_path / "s/preview.png", frames[0])
    (tmp_path / "s/masks/1.npy").unlink()
    (tmp_path / "s/masks").rmdir()
    np.save(tmp_path / "s/masks.npy", masks)
    with pytest.warns(DataWarning, match="s: masks.npy, preview.png beside images/ ignored"):
        open_names(tmp_path / "s")
    np.savez(tmp_path / "t.npz", frames=frames, targets=masks)
    with pytest.warns(DataWarning, match="t.npz: targets ignored; masks are expected as masks"):
        open_names(tmp_path / "t.npz")


def test_a_folder_of_stacks_gives_each_and_single_frames_among_them_are_refused(tmp_path, rng):
    frames, _ = random_sequence(rng, 3, 8, 9)
    pages = [Image.fromarray(frame) for frame in frames]
    for name in ("a.tif", "b.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    assert open_names(tmp_path) == ["a", "b"]
    pages[0].save(tmp_path / "c.tif")
    with pytest.raises(ValueError, match="c.tif beside a.tif, which has several frames"):
        open_names(tmp_path)


def test_a_file_of_several_frames_among_frames_is_refused_by_both_readers(tmp_path, rng):
    frames, masks = random_sequence(rng, 3, 8, 9)
    pages = [Image.fromarray(frame) for frame in frames]
    for number, mask in enumerate(masks, start=1):
        write_image(tmp_path / f"s/masks/{number}.png", mask)
        write_image(tmp_path / f"s/images/{number}.tif", frames[number - 1])
    pages[0].save(tmp_path / "s/images/3.tif", save_all=True, append_images=pages[1:])
    write_list(tmp_path / "test.txt", ["s"])
    for spec, path in (("Frames", tmp_path / "s"), ("NUDT-MIRSDT", tmp_path)):
        (sequence,) = get_spec(spec).open(get_spec(spec), path, (100, 20))
        with pytest.raises(ValueError, match="3.tif: .*3 frames in one file, where one is"):
            sequence.read(0, 3)

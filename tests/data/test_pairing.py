"""What is in a folder, in which order, and which mask belongs to which frame."""

import os
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pairing import frame_numbers, list_images, natural_order, pair, printable
from data.remarks import DataWarning, Remarks


def touch(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def listed(folder):
    return list_images(folder, Remarks())


def paired(images, masks, remarks=None):
    """{name of an image: name of its mask}, of two folders."""
    found = pair("s", listed(images), listed(masks), "masks", remarks or Remarks())
    return {image.name: mask.name for image, mask in zip(listed(images), found, strict=True)}


NAMES = st.tuples(
    st.sampled_from(["", "frame", "cam2_", "IMG-", "a.b ", "红外_"]),
    st.integers(1, 6),  # digits at least
    st.sampled_from(["", "_ir", "-0"]),
    st.sampled_from([".png", ".PNG", ".tif", ".bmp", ".webp"]),
)
HIDDEN = ("._{}", ".{}.swp", "Thumbs.db", ".DS_Store", "__MACOSX")


@given(
    numbers=st.lists(st.integers(0, 30000), min_size=2, max_size=30, unique=True),
    names=NAMES,
    mask_names=NAMES,
    hidden=st.lists(st.sampled_from(HIDDEN), unique=True),
    linked=st.booleans(),
    lost=st.data(),
)
def test_frames_come_by_number_and_each_has_the_mask_of_its_number(
    numbers, names, mask_names, hidden, linked, lost
):
    """Any names, paddings and gaps, hidden files beside, links instead of files."""

    def name(number, pattern):
        before, digits, after, suffix = pattern
        return f"{before}{number:0{digits}d}{after}{suffix}"

    with tempfile.TemporaryDirectory() as root:
        images = touch(Path(root, "images"), [name(n, names) for n in numbers])
        masks = touch(Path(root, "masks"), [name(n, mask_names) for n in numbers])
        if linked:
            images = Path(root, "links")
            images.mkdir()
            for number in numbers:
                (images / name(number, names)).symlink_to(root)  # wherever it leads
                (images / name(number, names)).unlink()
                os.symlink(Path(root, "images", name(number, names)), images / name(number, names))
        touch(masks, [word.format(name(numbers[0], mask_names)) for word in hidden])
        touch(images, [word.format(name(numbers[0], names)) for word in hidden])
        in_order = [name(n, names) for n in sorted(numbers)]
        assert [path.name for path in listed(images)] == in_order
        expected = {name(n, names): name(n, mask_names) for n in numbers}
        assert paired(images, masks) == expected
        if names[2] != "-0":
            assert frame_numbers(listed(images)) == tuple(sorted(numbers))

        gone = lost.draw(st.sampled_from(numbers))
        (masks / name(gone, mask_names)).unlink()
        with pytest.raises(ValueError, match="expected one for each frame"):
            paired(images, masks)
        touch(masks, [name(30001, mask_names)])
        with pytest.raises(ValueError) as refusal:
            paired(images, masks)
        if len(numbers) > 2:
            assert name(gone, names) in str(refusal.value)
            assert name(30001, mask_names) in str(refusal.value)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Misc_{}", "Misc_{}_pixels0"),
        ("f{}", "f{:05d}"),
        ("{}", "mask_{}"),
        ("2024_cam1_{}", "2024_cam1_{}_gt2"),
    ],
)
def test_masks_of_other_names_are_paired_by_their_number(tmp_path, image, mask):
    numbers = range(1, 13)
    images = touch(tmp_path / "images", [f"{image.format(n)}.png" for n in numbers])
    masks = touch(tmp_path / "masks", [f"{mask.format(n)}.png" for n in numbers])
    expected = {f"{image.format(n)}.png": f"{mask.format(n)}.png" for n in numbers}
    assert paired(images, masks) == expected


def test_masks_without_numbers_are_paired_by_name(tmp_path):
    images = touch(tmp_path / "images", ["alpha.png", "beta.png"])
    assert paired(images, touch(tmp_path / "same", ["beta.png", "alpha.png"])) == {
        "alpha.png": "alpha.png",
        "beta.png": "beta.png",
    }
    assert paired(images, touch(tmp_path / "more", ["m_alpha_gt.png", "m_beta_gt.png"])) == {
        "alpha.png": "m_alpha_gt.png",
        "beta.png": "m_beta_gt.png",
    }
    with pytest.raises(ValueError, match="expected one for each frame, with its name or number"):
        paired(images, touch(tmp_path / "other", ["x.png", "y.png"]))


def test_frames_from_0_and_masks_from_1_are_paired_in_order_which_is_said(tmp_path):
    images = touch(tmp_path / "images", [f"{n}.png" for n in range(11)])
    masks = touch(tmp_path / "masks", [f"{n}.png" for n in range(1, 12)])
    with pytest.warns(DataWarning, match="0.png is paired with 1.png"):
        assert paired(images, masks)["10.png"] == "11.png"
    shifted = touch(tmp_path / "shifted", [f"{n}.png" for n in range(2, 13)])
    with pytest.raises(ValueError, match="0.png has none; 11.png there has no frame"):
        paired(images, shifted)


def test_two_files_of_one_frame_are_refused(tmp_path):
    touch(tmp_path / "twice", ["1.png", "2.png", "2.jpg"])
    with pytest.raises(ValueError, match="2.jpg and 2.png have one name"):
        listed(tmp_path / "twice")
    touch(tmp_path / "pairs", ["001_img.png", "001_mask.png", "002_img.png", "002_mask.png"])
    with pytest.raises(ValueError, match="001_img.png and 001_mask.png have the same number"):
        listed(tmp_path / "pairs")


def test_what_is_no_image_is_said_once_and_hidden_files_are_not(tmp_path):
    folder = touch(
        tmp_path / "s", ["1.png", "notes.txt", "raw.fits", "labels.xls", "._1.png", "Thumbs.db"]
    )
    (folder / "2.png").mkdir()
    remarks = Remarks()
    with pytest.warns(DataWarning, match="s: 2.png, labels.xls, raw.fits ignored") as said:
        assert [path.name for path in list_images(folder, remarks)] == ["1.png"]
        list_images(folder, remarks)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["cam_0117.png", "cam_0118.png", "cam_0300.png"], (117, 118, 300)),
        (["0.png", "1.png"], (0, 1)),
        (["a.png", "b.png"], (1, 2)),
        (["a2.png", "b1.png"], (1, 2)),
        (["a1.png", "b1.png"], (1, 2)),
    ],
)
def test_frames_keep_their_numbers_where_these_are_distinct_and_ascend(names, numbers):
    assert frame_numbers(sorted(map(Path, names), key=natural_order)) == numbers


def test_names_that_are_no_utf_8_or_hold_control_characters_can_be_written():
    assert printable("红外 1 $x$") == "红外 1 $x$"
    assert printable("a\nb") == "a\\nb"
    chinese = os.fsdecode("红外".encode("gb18030"))
    assert printable(chinese).encode("utf-8") and printable(chinese) == "\\xba\\xec\\xcd\\xe2"


def test_a_clean_folder_is_listed_without_a_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listed(touch(tmp_path / "s", ["00001.png", "00002.png", ".DS_Store"]))
        listed(touch(tmp_path / "without numbers", ["before.png", "after.png"]))
        listed(touch(tmp_path / "every fifth", [f"{n}.png" for n in range(0, 50, 5)]))
        listed(touch(tmp_path / "milliseconds", [f"t{n}.png" for n in (0, 33, 66, 100, 133, 166)]))
        listed(touch(tmp_path / "clock", [f"12-{m}-{s}.png" for m in (7, 8) for s in (3, 33)][1:]))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            [*(f"f{n:03d}.png" for n in range(1, 8)), "average.png"],
            "average.png not named as the 7 others, such as f001.png",
        ),
        ([*(f"f{n}.png" for n in range(1, 6)), "f4 (1).png"], r"f4 \(1\).png not named as the 5"),
        (["a1.png", "a2.png", "b3.png", "b4.png"], "b3.png, b4.png not named as the 2 others"),
        (
            [f"cam{c}_{n:02d}.png" for c in (1, 2) for n in range(1, 6)],
            "cam2_01.png follows cam1_05.png, so numbers begin again; all 10",
        ),
        (["f1.png", "f2.png", "f4.png"], "f4.png follows f2.png; frames are taken as consecutive"),
    ],
)
def test_names_that_may_not_be_those_of_one_sequence_are_told(tmp_path, names, words):
    with pytest.warns(DataWarning, match=words):
        assert len(listed(touch(tmp_path / "s", names))) == len(names)


def test_a_number_with_and_without_noughts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="f01.png and f1.png have the same number"):
        listed(touch(tmp_path / "s", ["f1.png", "f01.png", "f2.png"]))


def test_times_are_in_the_order_of_time(tmp_path):
    times = [1690000000 + n / 30 for n in range(40)]
    names = [f"{float(f'{time:.3f}')}.png" for time in times]
    assert [path.name for path in listed(touch(tmp_path / "s", names[::-1]))] == names

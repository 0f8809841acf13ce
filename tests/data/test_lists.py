"""Reading the six layouts, and what is refused."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest

from data.frames import read_window
from data.lists import find_sequence, find_sequences, list_sequences, prepare, read_snr
from data.sequences import open_sequences, open_test_list
from data.specs import DATASETS, LOW_SNR, TEST_SEQUENCES, TRAIN_SEQUENCES, get_spec
from data.synthetic.plans import GENERATED, GENERATION
from tests.builders import random_sequence, write_image, write_list, write_nudt_sequence

NOISE = "NUDT-MIRSDT-Noise8.0_FJY(g0.15-o1.3)"

# (data set, split, list file, images, masks), written out from the published layouts.
LAYOUTS = [
    ("NUDT-MIRSDT", "train", "train.txt", "{}/images", "{}/masks"),
    ("NUDT-MIRSDT", "test", "test.txt", "{}/images", "{}/masks"),
    ("IRDST-simulation", "train", "img_idx/train_IRDST-simulation.txt", "images/{}", "masks/{}"),
    ("IRDST-simulation", "test", "img_idx/test_IRDST-simulation.txt", "images/{}", "masks/{}"),
    ("RGB-T", "train", "train.txt", "train2017/{}/01", "segmentations/{}"),
    ("RGB-T", "test", "test.txt", "test2017/{}/01", "segmentations/{}"),
    ("SatVideoIRSDT", "train", "train.txt", "train/{}/img", "train/{}/mask"),
    ("SatVideoIRSDT", "test", "val.txt", "val/{}/img", "val/{}/mask"),
    ("IRSatVideo-LEO", "train", "annotations/train_sequences.txt", "images/{}", "masks/{}"),
    ("IRSatVideo-LEO", "test", "annotations/val_sequences.txt", "images/{}", "masks/{}"),
]


def write_layout(root, layout, images, masks, name="seq", numbers=None):
    """Writes one sequence where the layout wants it."""
    _, _, list_file, image_folder, mask_folder = layout
    write_list(root / list_file, [name])
    numbers = numbers or range(1, len(images) + 1)
    for number, image, mask in zip(numbers, images, masks, strict=True):
        write_image(root / image_folder.format(name) / f"{number}.png", image)
        write_image(root / mask_folder.format(name) / f"{number}.png", mask)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(layout[:2]))
def test_each_layout_is_read_back(tmp_path, rng, layout):
    spec = get_spec(layout[0])
    split = getattr(spec, layout[1])
    images, masks = random_sequence(rng, 5, 6, 7)
    write_layout(tmp_path, layout, images, masks)
    files = find_sequence(spec, split, tmp_path, "seq")
    assert list_sequences(spec, split, tmp_path) == ["seq"]
    frames, read_masks = read_window(files, 0, 5)
    assert frames.dtype == read_masks.dtype == np.uint8
    assert np.array_equal(frames, images) and np.array_equal(read_masks, masks > 0)


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.test])
def test_frames_1_to_10_come_in_the_order_of_their_numbers(tmp_path, rng, name):
    spec = get_spec(name)
    images, masks = random_sequence(rng, 10, 6, 7)
    split = spec.test
    layout = (name, "test", split.list_file, split.images, split.masks)
    write_layout(tmp_path, layout, images, masks)
    files = find_sequence(spec, split, tmp_path, "seq")
    assert [int(path.stem) for path in files.images] == list(range(1, 11))
    assert [int(path.stem) for path in files.masks] == list(range(1, 11))


@pytest.mark.parametrize("parent", [".", "NUDT-MIRSDT-Noise"])
@pytest.mark.parametrize("name", ["NUDT-MIRSDT-HiNo", NOISE])
def test_noise_versions_take_masks_and_centroids_from_the_clean_sibling(
    tmp_path, rng, name, parent
):
    images, masks = random_sequence(rng, 4, 6, 7)
    write_nudt_sequence(tmp_path / "NUDT-MIRSDT", "Sequence47", images, masks)
    noisy = tmp_path / parent / name
    for number, image in enumerate(images, start=1):
        write_image(noisy / "Sequence47" / "images" / f"{number:05d}.png", 255 - image)
    spec = get_spec(name)
    files = find_sequence(spec, spec.test, noisy, "Sequence47")
    (sequence,) = open_sequences([files], (spec.mean, spec.std))
    block = sequence.read(0, 4)
    assert np.array_equal(block.frames, 255 - images)
    assert np.array_equal(block.masks, masks > 0)
    assert np.array_equal(block.centroids, masks > 0)
    assert files.centroids is not None


def test_a_noise_version_without_its_sibling_says_where_masks_were_looked_for(tmp_path, rng):
    images, _ = random_sequence(rng, 4, 6, 7)
    write_image(tmp_path / "HiNo/Sequence47/images/1.png", images[0])
    spec = get_spec("NUDT-MIRSDT-HiNo")
    with pytest.raises(FileNotFoundError, match="NUDT-MIRSDT/Sequence47/masks"):
        find_sequence(spec, spec.test, tmp_path / "HiNo", "Sequence47")


def test_without_list_files_nudt_falls_back_on_the_published_split(tmp_path):
    spec = get_spec("NUDT-MIRSDT")
    train = list_sequences(spec, spec.train, tmp_path)
    test = list_sequences(spec, spec.test, tmp_path)
    assert len(train) == 80 and len(test) == 20 and not set(train) & set(test)
    assert test[:13] == [f"Sequence{n}" for n in range(85, 98)]
    assert test[13:] == [f"Sequence{n}" for n in (47, 56, 59, 76, 101, 105, 119)]
    assert set(LOW_SNR) < set(TEST_SEQUENCES) and "Sequence47" not in TRAIN_SEQUENCES


def test_a_list_without_a_fallback_must_exist(tmp_path):
    spec = get_spec("SatVideoIRSDT")
    with pytest.raises(FileNotFoundError, match="val.txt: no such list"):
        list_sequences(spec, spec.test, tmp_path)


def test_list_entries_give_distinct_first_parts_in_order_with_windows_line_ends(tmp_path):
    spec = get_spec("NUDT-MIRSDT")
    (tmp_path / "test.txt").write_bytes(
        b"\xef\xbb\xbfb/images/1.png\r\nb/images/2.png\r\n\r\na\r\nc\\images\\1.png\r\nb/3\r\n"
    )
    assert list_sequences(spec, spec.test, tmp_path) == ["b", "a", "c"]


def test_lists_may_hold_paths_that_start_at_the_folder(tmp_path):
    spec = get_spec("NUDT-MIRSDT")
    (tmp_path / "test.txt").write_text("./a/images/1.png\n/b/images/1.png\n")
    assert list_sequences(spec, spec.test, tmp_path) == ["a", "b"]


def test_a_list_that_is_not_utf_8_is_named(tmp_path):
    spec = get_spec("NUDT-MIRSDT")
    (tmp_path / "test.txt").write_bytes("Sequence1\n".encode("utf-16"))
    with pytest.raises(ValueError, match="test.txt: not a UTF-8 text"):
        list_sequences(spec, spec.test, tmp_path)


def test_an_empty_list_is_refused(tmp_path):
    spec = get_spec("NUDT-MIRSDT")
    (tmp_path / "test.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="the list is empty"):
        list_sequences(spec, spec.test, tmp_path)


def test_without_centroid_masks_targets_come_from_the_masks(tmp_path, rng):
    images, masks = random_sequence(rng, 3, 6, 7)
    write_nudt_sequence(tmp_path, "Sequence47", images, masks, centroids=False)
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequence(spec, spec.test, tmp_path, "Sequence47")
    (sequence,) = open_sequences([files], (spec.mean, spec.std))
    block = sequence.read(0, 3)
    assert files.centroids is None and block.centroids is block.masks


def test_resizing_rules_of_the_table():
    sizes = {name: (spec.train_size, spec.test_size) for name, spec in DATASETS.items()}
    assert sizes.pop("NUDT-MIRSDT") == ((256, 256), None)
    assert sizes.pop("NUDT-MIRSDT-HiNo") == ((256, 256), None)
    assert sizes.pop("IRSatVideo-LEO") == ((512, 512), (512, 512))
    assert set(sizes.values()) == {(None, None)}


def test_leo_test_frames_are_resized_and_masks_are_not(tmp_path, rng):
    spec = get_spec("IRSatVideo-LEO")
    images, masks = random_sequence(rng, 3, 6, 7)
    write_layout(tmp_path, LAYOUTS[-1], images, masks)
    (sequence,) = open_test_list(spec, tmp_path)
    block = sequence.read(0, 3)
    assert block.frames.shape == (3, 512, 512) and block.masks.shape == (3, 6, 7)


def test_subsets_by_published_names_and_by_recorded_snr(tmp_path):
    names = ["Sequence85", "Sequence47", "Sequence56"]
    assert read_snr(get_spec("NUDT-MIRSDT"), tmp_path, names) == {
        "low_snr": ["Sequence47", "Sequence56"],
        "high_snr": ["Sequence85"],
    }
    assert read_snr(get_spec("NUDT-MIRSDT"), tmp_path, ["mine"]) == {}
    (tmp_path / "snr.csv").write_text("sequence,snr\na,3.0\nb,3.001\nc,0.5\n")
    assert read_snr(get_spec("Synthetic"), tmp_path, ["b", "a"]) == {
        "low_snr": ["a"],
        "high_snr": ["b"],
    }


def test_a_table_of_snr_without_its_columns_is_refused(tmp_path):
    (tmp_path / "snr.csv").write_text("name,value\na,3.0\n")
    with pytest.raises(ValueError, match="columns `sequence` and `snr`"):
        read_snr(get_spec("Synthetic"), tmp_path, ["a"])


@pytest.mark.parametrize("exists", [False, True])
def test_a_data_set_that_can_be_generated_is(tmp_path, exists):
    written = []
    spec = replace(get_spec("Synthetic"), generate=written.append)
    root = tmp_path / "Synthetic"
    if exists:
        root.mkdir()
    prepare(spec, root)
    assert written == [root]
    root.mkdir(exist_ok=True)
    (root / "train.txt").touch()
    prepare(spec, root)
    assert written == [root]


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("Synthetic", '{"generation": 1}', "generation 1 "),
        ("Synthetic", "{", "generation unknown "),
        ("Synthetic-HiNo", '{"generation": 1}', "and the marker's"),
        ("Synthetic", f'{{"generation": {GENERATION}}}', None),
        ("Synthetic-HiNo", f'{{"generation": {GENERATION}}}', None),
    ],
)
def test_data_of_an_earlier_generator_are_told(tmp_path, name, text, told):
    for folder in ("Synthetic", name):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "train.txt").touch()
    (tmp_path / "Synthetic" / GENERATED).write_text(text)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        prepare(get_spec(name), tmp_path / name)
    assert len(said) == (told is not None)
    assert told is None or told in str(said[0].message)


def test_a_missing_data_set_says_where_it_comes_from_and_what_needs_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="comes from .*--dataset Synthetic"):
        prepare(get_spec("NUDT-MIRSDT"), tmp_path / "absent")


def test_a_listed_sequence_without_folder_is_refused(nudt):
    write_list(nudt / "test.txt", ["Sequence47", "Sequence99"])
    spec = get_spec("NUDT-MIRSDT")
    with pytest.raises(FileNotFoundError, match="Sequence99: no folder"):
        find_sequences(spec, spec.test, nudt)


def test_counts_that_differ_are_refused(nudt):
    (nudt / "Sequence47/masks/00041.png").unlink()
    spec = get_spec("NUDT-MIRSDT")
    with pytest.raises(ValueError, match="Sequence47: 41 frames but 40 masks in .*masks"):
        find_sequences(spec, spec.test, nudt)


def test_frames_and_masks_are_paired_by_number(nudt):
    (nudt / "Sequence47/images/00003.png").unlink()
    (nudt / "Sequence47/masks/00007.png").unlink()
    (nudt / "Sequence47/masks_centroid/00003.png").unlink()
    spec = get_spec("NUDT-MIRSDT")
    with pytest.raises(ValueError, match="00007.png has none; 00003.png there has no frame"):
        find_sequences(spec, spec.test, nudt)


def remarks_on(spec, split, root):
    """What is said of a split when its sequences are found."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        find_sequences(spec, split, root)
    return [str(warning.message) for warning in said]


def test_test_sequences_without_centroid_masks_are_told_once(nudt):
    spec = get_spec("NUDT-MIRSDT")
    assert remarks_on(spec, spec.test, nudt) == []
    shutil.rmtree(nudt / "Sequence85/masks_centroid")
    (line,) = remarks_on(spec, spec.test, nudt)
    assert "Sequence85/masks: no centroid masks beside it, as for 1 of 2 test seq" in line
    assert "counted by the components of the masks, the others' by centroid masks" in line
    shutil.rmtree(nudt / "Sequence47/masks_centroid")
    (line,) = remarks_on(spec, spec.test, nudt)
    assert "Sequence47/masks: no centroid masks beside it, as for 2 of 2" in line
    shutil.rmtree(nudt / "Sequence1/masks_centroid")  # training needs none
    assert remarks_on(spec, spec.train, nudt) == []


@pytest.mark.parametrize("layout", [each for each in LAYOUTS[2:] if each[1] == "test"])
def test_layouts_without_centroid_masks_are_not_remarked_on(tmp_path, rng, layout):
    write_layout(tmp_path, layout, *random_sequence(rng, 3, 6, 7))
    spec = get_spec(layout[0])
    assert remarks_on(spec, spec.test, tmp_path) == []


def test_own_masks_that_the_clean_siblings_replace_are_told_once(nudt, rng):
    noisy, spec = nudt.parent / "my-NUDT-MIRSDT", get_spec("my-NUDT-MIRSDT")
    write_list(noisy / "test.txt", ["Sequence47", "Sequence85"])
    for name in ("Sequence47", "Sequence85"):
        shutil.copytree(nudt / name / "images", noisy / name / "images")
    assert remarks_on(spec, spec.test, noisy) == []
    for name in ("Sequence47", "Sequence85"):
        shutil.copytree(nudt / name / "masks", noisy / name / "masks")
    (line,) = remarks_on(spec, spec.test, noisy)
    assert f"{noisy}/Sequence47/masks: not read; the masks in {nudt}/Sequence47/masks" in line


def test_hidden_files_are_no_frames(nudt):
    (nudt / "Sequence47/images/._00001.png").write_bytes(b"resource fork")
    spec = get_spec("NUDT-MIRSDT")
    assert len(find_sequence(spec, spec.test, nudt, "Sequence47")) == 41


def test_the_clean_sibling_is_found_beside_a_link(tmp_path, rng):
    images, masks = random_sequence(rng, 3, 6, 7)
    write_nudt_sequence(tmp_path / "disk1/clean", "Sequence47", images, masks)
    write_image(tmp_path / "disk2/noisy/Sequence47/images/1.png", images[0])
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/NUDT-MIRSDT").symlink_to(tmp_path / "disk1/clean")
    (tmp_path / "datasets/HiNo").symlink_to(tmp_path / "disk2/noisy")
    for number in (2, 3):
        write_image(tmp_path / f"disk2/noisy/Sequence47/images/{number}.png", images[0])
    spec = get_spec("NUDT-MIRSDT-HiNo")
    assert len(find_sequence(spec, spec.test, tmp_path / "datasets/HiNo", "Sequence47").masks) == 3


def test_without_list_and_folder_the_message_says_that_the_split_was_assumed(tmp_path):
    spec = get_spec("NUDT-MIRSDT")
    with pytest.raises(FileNotFoundError, match="without .*test.txt the published split"):
        find_sequences(spec, spec.test, tmp_path)


@pytest.mark.parametrize("size", [None, (32, 32)])
def test_a_mask_of_another_size_is_refused_with_and_without_resizing(nudt, size):
    write_image(nudt / "Sequence47/masks/00003.png", np.zeros((9, 10), np.uint8))
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequence(spec, spec.test, nudt, "Sequence47")
    with pytest.raises(ValueError, match="00003.png: 9x10 pixels, but .* has 8x10"):
        read_window(files, 0, 5, size)


def test_a_window_without_frames_is_refused(nudt):
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequence(spec, spec.test, nudt, "Sequence47")
    with pytest.raises(ValueError, match=r"Sequence47: no frames \[500, 510\)"):
        read_window(files, 500, 510)


@pytest.mark.parametrize("size", [None, (16, 20)])
def test_frames_of_two_depths_in_a_sequence_are_refused(nudt, rng, size):
    spec = get_spec("NUDT-MIRSDT")
    wide = rng.integers(0, 60000, (8, 10)).astype(np.uint16)
    write_image(nudt / "Sequence47/images/00003.png", wide)
    files = find_sequence(spec, spec.test, nudt, "Sequence47")
    message = "00003.png: grey levels of type uint16, but .*00001.png has uint8"
    with pytest.raises(ValueError, match=message):
        read_window(files, 0, 5, size)
    with pytest.raises(ValueError, match=message):
        next(iter(open_sequences([files], (0, 1), size))).read(0, 5)


@pytest.mark.parametrize("folder", ["images", "masks", "masks_centroid"])
def test_sizes_that_differ_are_refused(nudt, folder):
    write_image(nudt / f"Sequence47/{folder}/00003.png", np.zeros((9, 10), np.uint8))
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequence(spec, spec.test, nudt, "Sequence47")
    with pytest.raises(ValueError, match="00003.png: 9x10 pixels, but .* has 8x10"):
        next(iter(open_sequences([files], (0, 1)))).read(0, 41)


def test_an_unknown_data_set_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="SatVideoIRSDT"):
        get_spec("COCO")


def test_normalisation_of_the_table():
    published = {
        "NUDT-MIRSDT": (105.4025, 26.6452),
        "NUDT-MIRSDT-HiNo": (105.4025, 26.6452),
        "IRDST-simulation": (106.8523, 56.9243),
        "RGB-T": (85.0799, 47.4845),
        "SatVideoIRSDT": (111.47, 22.43),
        "IRSatVideo-LEO": (72.104, 12.303),
        "Synthetic": (105.4025, 26.6452),
        "Synthetic-HiNo": (105.4025, 26.6452),
        "Converted": (None, None),
        "Frames": (None, None),
    }
    # Other data sets may stand beside these.
    table = {name: (DATASETS[name].mean, DATASETS[name].std) for name in published}
    assert table == published

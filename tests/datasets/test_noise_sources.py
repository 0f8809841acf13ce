"""A noisy version is of the images that are there: others are refused, a copy of them is not."""

import json
import os
import shutil

import numpy as np
import pytest

from data.images import read_frame
from data.noise import marker, writing
from data.noise.__main__ import main
from data.noise.marker import MARKER
from data.noise.model import StrongNoise
from data.noise.writing import write_noisy
from data.record import RECORD_FILE, read_normalisation, write_record
from data.specs import get_spec
from tests.builders import random_sequence, write_image, write_list, write_nudt_sequence

OTHERS = "was made of other images than .* has now: remove it or choose another --output"


def write_frames(root, level, count=5):
    """Own footage of one sequence, all of one grey level."""
    for number in range(count):
        write_image(root / "s1/images" / f"{number:04d}.png", np.full((12, 13), level, np.uint8))
    return root


def make_noisy(root, output, name="Frames", noise=None):
    return write_noisy(get_spec(name), root, output, noise or StrongNoise(), 1, progress=False)


def write_listed(root, rng, dataset="Synthetic"):
    """A data set of one training and one test sequence."""
    root = root / dataset
    for name, split in (("Sequence1", "train"), ("Sequence2", "test")):
        write_nudt_sequence(root, name, *random_sequence(rng, 4, 12, 13))
        write_list(root / f"{split}.txt", [name])
    return root


def without(folder, *keys):
    """Takes from noise.json what an earlier version of this program did not write."""
    content = json.loads((folder / MARKER).read_text())
    kept = {key: value for key, value in content.items() if key not in keys}
    (folder / MARKER).write_text(json.dumps(kept))


def test_a_finished_version_of_other_images_is_refused(tmp_path):
    one, other = (write_frames(tmp_path / str(level), level) for level in (50, 150))
    make_noisy(one, tmp_path / "noisy")
    make_noisy(one, tmp_path / "noisy")
    with pytest.raises(FileExistsError, match=OTHERS):
        make_noisy(other, tmp_path / "noisy")


def test_the_refusal_is_one_line(tmp_path, capsys):
    one, other = (write_frames(tmp_path / str(level), level) for level in (50, 150))
    words = ["--dataset", "Frames", "--output", str(tmp_path / "noisy"), "--datapath"]
    main([*words, str(one)])
    with pytest.raises(SystemExit) as stop:
        main([*words, str(other)])
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1 and "remove it or choose another --output" in errors[0]


@pytest.mark.parametrize("known", [True, False])
def test_an_image_that_changed_in_place_is_seen(known, tmp_path, rng):
    root = write_listed(tmp_path, rng)
    make_noisy(root, tmp_path / "noisy", "Synthetic")
    if not known:
        without(tmp_path / "noisy", "digests")
    path = root / "Sequence2/images/00003.png"
    frame = read_frame(path)
    write_image(path, frame + np.uint8(1))
    with pytest.raises(FileExistsError, match="was made of (an)?other image"):
        make_noisy(root, tmp_path / "noisy", "Synthetic")
    write_image(path, frame)
    make_noisy(root, tmp_path / "noisy", "Synthetic")


def test_a_copy_of_the_clean_set_is_the_same(tmp_path, rng):
    root = write_listed(tmp_path, rng)
    law = make_noisy(root, tmp_path / "noisy", "Synthetic")
    copy = root.rename(tmp_path / "there")
    for path in copy.rglob("*.png"):
        image = read_frame(path)
        path.unlink()
        write_image(path, image)
        os.utime(path, ns=(0, 0))
    assert make_noisy(copy, tmp_path / "noisy", "Synthetic") == law


def test_a_version_finished_by_an_earlier_program_is_checked_once_and_taken(
    tmp_path, rng, monkeypatch
):
    root = write_listed(tmp_path, rng)
    law = make_noisy(root, tmp_path / "noisy", "Synthetic")
    content = (tmp_path / "noisy" / MARKER).read_text()
    without(tmp_path / "noisy", "digests")
    monkeypatch.setattr(writing, "save_image", None)
    assert make_noisy(root, tmp_path / "noisy", "Synthetic") == law
    assert json.loads((tmp_path / "noisy" / MARKER).read_text()) == json.loads(content)


def test_a_finished_version_that_may_only_be_read_is_taken(tmp_path, monkeypatch):
    root = write_frames(tmp_path / "clean", 50)
    law = make_noisy(root, tmp_path / "noisy")
    without(tmp_path / "noisy", "digests")

    def refuse(*_):
        raise OSError(30, "Read-only file system", str(tmp_path / "noisy"))

    monkeypatch.setattr(writing, "write_marker", refuse)
    assert make_noisy(root, tmp_path / "noisy") == law


def stop_at(count, monkeypatch):
    """The writing is interrupted before that image."""
    save, saved = writing.save_image, []

    def save_some(path, pixels):
        if len(saved) == count:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, pixels)

    monkeypatch.setattr(writing, "save_image", save_some)
    return save


def test_unfinished_work_is_not_continued_with_other_images(tmp_path, monkeypatch):
    one, other = (write_frames(tmp_path / str(level), level) for level in (50, 150))
    save = stop_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        make_noisy(one, tmp_path / "noisy")
    monkeypatch.setattr(writing, "save_image", save)
    with pytest.raises(FileExistsError, match=r"0000\.png: was made of another image .* remove"):
        make_noisy(other, tmp_path / "noisy")
    make_noisy(one, tmp_path / "noisy")
    make_noisy(one, tmp_path / "whole")
    assert [path.read_bytes() for path in sorted((tmp_path / "noisy").rglob("*.png"))] == [
        path.read_bytes() for path in sorted((tmp_path / "whole").rglob("*.png"))
    ]


def test_what_killed_processes_left_is_swept(tmp_path, monkeypatch):
    root = write_frames(tmp_path / "clean", 50)
    save = stop_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        make_noisy(root, tmp_path / "noisy")
    folder = tmp_path / "noisy.partial/s1/images"
    (folder / f".0003.png.{'0af9' * 8}").write_bytes(b"half")
    (folder / "0001.png").write_bytes(b"")  # as after a loss of power
    (folder / ".0002.png").write_bytes(b"mine")
    monkeypatch.setattr(writing, "save_image", save)
    for _ in range(2):
        make_noisy(root, tmp_path / "noisy")
        names = {path.name for path in (tmp_path / "noisy/s1/images").iterdir()}
        assert names == {*(f"{number:04d}.png" for number in range(5)), ".0002.png"}
        (tmp_path / "noisy" / f".noise.json.{'0af9' * 8}").touch()
    assert read_frame(tmp_path / "noisy/s1/images/0001.png").shape == (12, 13)


def test_lists_that_changed_are_told(tmp_path, rng):
    root = write_listed(tmp_path, rng)
    make_noisy(root, tmp_path / "noisy", "Synthetic")
    for one, other in (("train", "Sequence2"), ("test", "Sequence1")):
        write_list(root / f"{one}.txt", [other])
    with pytest.raises(FileExistsError, match=r"train\.txt: is not what .* copy that, or remove"):
        make_noisy(root, tmp_path / "noisy", "Synthetic")
    for name in ("train.txt", "test.txt"):
        shutil.copyfile(root / name, tmp_path / "noisy" / name)
    make_noisy(root, tmp_path / "noisy", "Synthetic")


def test_masks_that_were_copied_and_have_changed_are_told(tmp_path, rng):
    root = write_listed(tmp_path / "clean", rng).rename(tmp_path / "mine")
    make_noisy(root, tmp_path / "noisy", "Synthetic")
    mask = root / "Sequence1/masks/00002.png"
    write_image(mask, np.zeros((12, 13), np.uint8))
    with pytest.raises(FileExistsError, match=r"masks/00002\.png: is not what"):
        make_noisy(root, tmp_path / "noisy", "Synthetic")


@pytest.mark.parametrize("how", ["written", "finished by an earlier program"])
def test_a_converted_set_has_a_noisy_version_that_can_be_used(how, tmp_path, rng, capsys):
    root = write_listed(tmp_path, rng, "Converted")
    write_record(root, 101.5, 12.25, {"sequences": {}})
    main(["--dataset", "Converted", "--datapath", str(root)])
    noise = StrongNoise()
    output = tmp_path / "Converted-Noise" / noise.folder_name("Converted")
    if how != "written":
        (output / RECORD_FILE).unlink()
        without(output, "digests")
        main(["--dataset", "Converted", "--datapath", str(root)])
    assert f"--dataset '{output.name}' --datapath '{output}'" in capsys.readouterr().out
    spec = get_spec(output.name)
    assert read_normalisation(spec, output) == (101.5, 12.25)
    (sequence,) = spec.open(spec, output)
    assert sequence.labelled and sequence.normalisation == (101.5, 12.25)


def test_a_converted_set_without_its_record_is_refused_before_anything_is_written(tmp_path, rng):
    root = write_listed(tmp_path, rng, "Converted")
    with pytest.raises(FileNotFoundError, match="which comes from python -m data.convert"):
        make_noisy(root, tmp_path / "noisy", "Converted")
    assert {path.name for path in tmp_path.iterdir()} == {"Converted"}


def test_a_frame_of_another_shape_or_depth_has_another_digest():
    frame = np.arange(12, dtype=np.uint8).reshape(3, 4)
    labels = {"masks": np.zeros((3, 4), np.uint8)}
    cases = [(frame, {}), (frame.reshape(4, 3), {}), (frame.astype(np.uint16), {}), (frame, labels)]
    assert len({marker.digest_of(*case) for case in cases}) == 4

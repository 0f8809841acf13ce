"""Strong noise: its law, its two patterns, the same bytes again, layout, resumption, refusals."""

import hashlib
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data.images import read_frame
from data.lists import find_sequences, prepare
from data.noise import writing
from data.noise.__main__ import main
from data.noise.model import LawFit, StrongNoise, VarianceLaw
from data.noise.writing import write_noisy
from data.remarks import DataWarning
from data.specs import get_spec
from data.synthetic import plans
from data.synthetic import writing as synthetic
from tests.builders import write_image, write_list, write_nudt_sequence

PUBLISHED = "NUDT-MIRSDT-Noise8.0_FJY(g0.15-o1.3)"


def ramps(frames=12, height=120, width=150, low=60, high=150, dtype=np.uint8):
    """Frames (N, H, W) in which every pixel takes levels from all over the range."""
    span = high - low
    rows, columns = np.arange(height)[:, None], np.arange(width)
    shifts = np.arange(frames)[:, None, None] * span // frames
    return (low + (rows * 7 + columns + shifts) % span).astype(dtype)


@pytest.fixture
def clean(tmp_path):
    """A NUDT-MIRSDT of one training and one test sequence of ramps."""
    root = tmp_path / "NUDT-MIRSDT"
    for name, list_file in (("Sequence1", "train.txt"), ("Sequence85", "test.txt")):
        frames = ramps()
        masks = np.zeros_like(frames)
        masks[:, 3, 4] = 255
        write_nudt_sequence(root, name, frames, masks)
        write_list(root / list_file, [name])
    return root


def write(clean, output, noise=None, workers=2):
    spec = get_spec("NUDT-MIRSDT")
    return write_noisy(spec, clean, output, noise or StrongNoise(), workers, progress=False)


def read_stack(folder):
    return np.stack([read_frame(path) for path in sorted(folder.glob("*.png"))])


def contents(folder):
    """Digest of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refusal(words, capsys):
    """The one line that main leaves on stderr, but for the bar, before it exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().replace("\r", "\n").splitlines()
    assert [line for line in lines if not line.startswith("Adding noise")] == lines[-1:]
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("pattern", ["fixed", "per-frame"])
def test_variance_of_a_written_set_follows_the_law_at_every_level(
    pattern, distribution, clean, tmp_path
):
    noise = StrongNoise(pattern=pattern, distribution=distribution)
    write(clean, tmp_path / "noisy", noise)
    levels, errors = [], []
    for name in ("Sequence1", "Sequence85"):
        before = read_stack(clean / name / "images").astype(float)
        levels.append(before)
        errors.append(read_stack(tmp_path / "noisy" / name / "images") - before)
    levels, errors = np.stack(levels), np.stack(errors)
    gain = 0.15**2 / (3 if distribution == "uniform" else 1)
    for low in range(60, 150, 15):
        here = (levels >= low) & (levels < low + 15)
        expected = 8**2 + 1.3**2 + 1 / 12 + gain * (levels[here] ** 2).mean()
        assert (errors[here] ** 2).mean() == pytest.approx(expected, rel=0.02)
        assert abs(errors[here].mean()) < 0.2


def test_the_measured_law_is_that_of_the_parameters(clean, tmp_path):
    measured = write(clean, tmp_path / "noisy")
    assert measured.additive**2 == pytest.approx(8**2 + 1.3**2 + 1 / 12, rel=0.05)
    assert measured.gain**2 == pytest.approx(0.15**2 / 3, rel=0.05)


def test_a_fixed_pattern_is_the_same_in_all_frames_and_a_drawn_one_in_none():
    frames = ramps(2, 200, 300)
    level = frames[0].astype(float) * frames[1]
    for pattern, expected in (("fixed", 1.3**2 + 0.15**2 / 3 * level.mean()), ("per-frame", 0)):
        noise = StrongNoise(pattern=pattern)
        errors = [
            noise.add_to(frame, "a", i) - frame.astype(float) for i, frame in enumerate(frames)
        ]
        assert (errors[0] * errors[1]).mean() == pytest.approx(expected, abs=2.5)


def test_without_noise_the_fixed_pattern_is_all_there_is():
    noise = StrongNoise(sigma=0, offset=0)
    frame = np.full((50, 60), 100, np.uint8)
    first, second = noise.add_to(frame, "a", 0), noise.add_to(frame, "a", 7)
    np.testing.assert_array_equal(first, second)
    assert 85 <= first.min() < 88 and 112 < first.max() <= 115


def test_grey_levels_are_rounded_and_clipped_to_their_type():
    noise = StrongNoise(sigma=300)
    for dtype in (np.uint8, np.uint16):
        top = np.iinfo(dtype).max
        noisy = noise.add_to(np.full((40, 40), top - 5, dtype), "a", 0)
        assert noisy.dtype == dtype and noisy.max() == top
        assert noise.add_to(np.full((40, 40), 5, dtype), "a", 0).min() == 0


def test_16_bit_frames_keep_their_depth_and_their_law(tmp_path):
    images = tmp_path / "own" / "seq" / "images"
    frames = ramps(4, 150, 200, 20000, 40000, np.uint16)
    for number, frame in enumerate(frames, 1):
        write_image(images / f"{number:05d}.png", frame)
    noise = StrongNoise(sigma=800, gain=0.05, offset=100)
    spec = get_spec("Frames")
    law = write_noisy(spec, tmp_path / "own", tmp_path / "out", noise, 1, progress=False)
    written = read_stack(tmp_path / "out" / "seq" / "images")
    assert written.dtype == np.uint16
    error = written - frames.astype(float)
    expected = 800**2 + 100**2 + 0.05**2 / 3 * frames.astype(float) ** 2
    assert (error**2).mean() == pytest.approx(expected.mean(), rel=0.02)
    assert law.gain == pytest.approx(0.05 / 3**0.5, rel=0.05)


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(clean, tmp_path):
    for workers in (1, 3):
        write(clean, tmp_path / f"by{workers}", workers=workers)
    assert contents(tmp_path / "by1") == contents(tmp_path / "by3")
    write(clean, tmp_path / "other", StrongNoise(seed=47))
    a, b = (
        read_stack(tmp_path / name / "Sequence1" / "images").astype(int)
        for name in ("by1", "other")
    )
    assert np.abs(a - b).mean() > 5


def test_noise_does_not_depend_on_which_other_sequences_there_are(clean, tmp_path):
    write(clean, tmp_path / "both")
    write_list(clean / "train.txt", ["Sequence85"])
    write(clean, tmp_path / "one")
    assert not (tmp_path / "one" / "Sequence1").exists()
    a, b = (contents(tmp_path / name / "Sequence85") for name in ("both", "one"))
    assert a == b


def test_sequences_and_frames_have_noise_of_their_own():
    frame, noise = np.full((90, 90), 100, np.uint8), StrongNoise(gain=0, offset=0)
    made = [noise.add_to(frame, name, i) - 100.0 for name in "ab" for i in (0, 1)]
    for one, other in itertools.combinations(made, 2):
        assert abs((one * other).mean()) < 4 < (one * one).mean()


@pytest.mark.parametrize("place", ["{}", "NUDT-MIRSDT-Noise/{}"])
def test_masks_are_shared_with_the_clean_set_beside_it(place, clean, tmp_path):
    output = tmp_path / place.format(PUBLISHED)
    write(clean, output)
    assert {path.name for path in (output / "Sequence1").iterdir()} == {"images"}
    spec = get_spec(PUBLISHED)
    (files,) = find_sequences(spec, spec.test, output)
    assert files.images[0] == output / "Sequence85" / "images" / "00001.png"
    assert files.masks[0].samefile(clean / "Sequence85" / "masks" / "00001.png")
    assert files.centroids[0].samefile(clean / "Sequence85" / "masks_centroid" / "00001.png")


def test_masks_are_copied_where_the_clean_set_would_not_be_found(clean, tmp_path):
    output = tmp_path / "far" / "away" / "noisy"
    clean = clean.rename(tmp_path / "mine")
    write(clean, output)
    spec = get_spec(PUBLISHED)
    for split in (spec.train, spec.test):
        (files,) = find_sequences(spec, split, output)
        for path in (*files.masks, *files.centroids):
            assert path.read_bytes() == (clean / path.relative_to(output)).read_bytes()


def test_of_a_set_with_one_list_its_sequences_are_written_and_the_other_is_named(clean, tmp_path):
    (clean / "train.txt").unlink()
    shutil.rmtree(clean / "Sequence1")
    with pytest.warns(DataWarning, match=r"train\.txt: no such list; its sequences are left out"):
        write(clean, tmp_path / "noisy")
    assert read_stack(tmp_path / "noisy/Sequence85/images").shape == ramps().shape
    assert not (tmp_path / "noisy/Sequence1").exists()
    (clean / "test.txt").unlink()
    shutil.rmtree(clean / "Sequence85")
    with pytest.raises(FileNotFoundError, match="published split of NUDT-MIRSDT is expected"):
        write(clean, tmp_path / "of nothing")


def test_other_data_sets_keep_their_layout_and_lists(tmp_path):
    root = tmp_path / "IRDST-simulation"
    for number, frame in enumerate(ramps(10, 20, 30), 1):
        write_image(root / "images" / "s" / f"{number}.bmp", frame)
        write_image(root / "masks" / "s" / f"{number}.bmp", frame * 0)
    for name in ("train", "test"):
        write_list(root / "img_idx" / f"{name}_IRDST-simulation.txt", ["s"])
    clean, noise = get_spec("IRDST-simulation"), StrongNoise()
    output = tmp_path / noise.folder_name(clean.name)
    write_noisy(clean, root, output, noise, 1, progress=False)
    spec = get_spec(output.name)
    assert (spec.mean, spec.std) == (clean.mean, clean.std)
    (files,) = find_sequences(spec, spec.test, output)
    assert [path.name for path in files.images[-2:]] == ["9.png", "10.png"]
    assert files.masks[-1].samefile(root / "masks" / "s" / "10.bmp")


def test_own_footage_is_written_with_its_masks(tmp_path):
    frames = ramps(5, 20, 30)
    masks = np.zeros_like(frames)
    masks[:, 5:7, 8] = 1
    np.savez(tmp_path / "clip.npz", frames=frames, masks=masks)
    spec = get_spec("Frames")
    write_noisy(spec, tmp_path / "clip.npz", tmp_path / "out", StrongNoise(), 2, progress=False)
    (sequence,) = spec.open(spec, tmp_path / "out")
    block = sequence.read(0, 5)
    assert (sequence.name, block.frames.shape) == ("clip", frames.shape)
    np.testing.assert_array_equal(block.masks, masks)


def test_an_interrupted_call_is_continued_without_writing_again(clean, tmp_path, monkeypatch):
    output, save, saved = tmp_path / "noisy", writing.save_image, []

    def fail_at_the_fifteenth(path, pixels):
        if len(saved) == 15:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, pixels)

    monkeypatch.setattr(writing, "save_image", fail_at_the_fifteenth)
    with pytest.raises(KeyboardInterrupt):
        write(clean, output, workers=1)
    assert not output.exists()
    monkeypatch.setattr(writing, "save_image", lambda *pair: saved.append(pair[0]) or save(*pair))
    write(clean, output, workers=1)
    assert len(saved) == len(set(saved)) == 24
    assert not (tmp_path / "noisy.partial").exists()
    write(clean, tmp_path / "again")
    assert contents(output) == contents(tmp_path / "again")


def test_of_two_that_write_the_same_at_once_both_succeed_and_leave_nothing(
    clean, tmp_path, monkeypatch
):
    output, write_marker = tmp_path / "noisy", writing.write_marker
    write(clean, tmp_path / "first")

    def another_is_faster(*given):
        write_marker(*given)
        (tmp_path / "first").rename(output)

    monkeypatch.setattr(writing, "write_marker", another_is_faster)
    write(clean, output, workers=1)
    assert not (tmp_path / "noisy.partial").exists() and output.is_dir()


def test_unfinished_work_of_another_noise_is_refused(clean, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "save_image", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(clean, tmp_path / "noisy", workers=1)
    with pytest.raises(FileExistsError, match="unfinished work"):
        write(clean, tmp_path / "noisy", StrongNoise(seed=3))


def test_a_finished_version_is_left_as_it_is_and_tells_its_law(clean, tmp_path, monkeypatch):
    law = write(clean, tmp_path / "noisy")
    monkeypatch.setattr(writing, "save_image", None)
    assert write(clean, tmp_path / "noisy") == law


def test_a_finished_version_that_lost_a_frame_is_refused(clean, tmp_path):
    write(clean, tmp_path / "noisy")
    (tmp_path / "noisy/Sequence1/images/00003.png").unlink()
    with pytest.raises(FileExistsError, match="not a finished version"):
        write(clean, tmp_path / "noisy")


def test_synthetic_data_with_noise_is_generated_on_first_use(tmp_path, monkeypatch):
    tiny = plans.Preset(2, 1, 1, 0, frames=5, heights=(47, 53), widths=(50, 61))
    monkeypatch.setitem(plans.PRESETS, "small", tiny)
    monkeypatch.setattr(synthetic, "usable_cores", lambda: 1)
    spec, root = get_spec("Synthetic-HiNo"), tmp_path / "Synthetic-HiNo"
    prepare(spec, root)
    assert {path.name for path in tmp_path.iterdir()} == {"Synthetic", "Synthetic-HiNo"}
    (files,) = find_sequences(spec, spec.test, root)
    assert files.masks[0].parent.parent.parent.name == "Synthetic"
    clean, noisy = read_frame(tmp_path / "Synthetic/Sequence3/images/00001.png"), files.images[0]
    assert 5 < np.std(read_frame(noisy) - clean.astype(float)) < 30
    assert (root / "snr.csv").read_bytes() == (tmp_path / "Synthetic/snr.csv").read_bytes()
    before = contents(root)
    prepare(spec, root)
    assert contents(root) == before


def test_folders_are_named_as_published():
    assert StrongNoise().folder_name("NUDT-MIRSDT") == PUBLISHED
    other = StrongNoise(4, 0.1, 2, "per-frame", "normal", 7)
    assert other.folder_name("X") == "X-Noise4.0_FJY(g0.1-o2)_per-frame_normal_seed7"


def test_a_fit_finds_the_law_that_grey_levels_follow(rng):
    law = VarianceLaw(10.0, 0.05)
    clean = rng.integers(60, 180, (400, 500)).astype(np.uint8)
    noisy = clean + rng.standard_normal(clean.shape) * np.sqrt(law.variance(clean.astype(float)))
    fit = LawFit(law).add(clean[:100], noisy[:100]) + LawFit(law).add(clean[100:], noisy[100:])
    assert fit.law().additive == pytest.approx(10, rel=0.02)
    assert fit.law().gain == pytest.approx(0.05, rel=0.05)


def test_a_fit_says_what_it_cannot_tell(rng):
    level = np.full((50, 60), 100, np.uint8)
    law = LawFit(VarianceLaw(8, 0)).add(level, level + rng.normal(0, 8, level.shape)).law()
    assert law.gain is None and law.additive == pytest.approx(8, rel=0.05)
    assert LawFit(VarianceLaw(8, 0)).add(level * 0, level * 0).law() is None


def test_the_command_prints_the_law_beside_the_published_one(clean, capsys):
    main(["--dataset", "NUDT-MIRSDT", "--datapath", str(clean), "--workers", "2"])
    output = clean.parent / "NUDT-MIRSDT-Noise" / PUBLISHED
    assert json.loads((output / "noise.json").read_text())["pattern"] == "fixed"
    lines = capsys.readouterr().out.splitlines()
    assert any("as expected   8.11^2 + (0.0866 I)^2" in line for line in lines)
    assert any("as published  8.18^2 + (0.0900 I)^2" in line for line in lines)
    assert f"--dataset '{PUBLISHED}'" in lines[-1]


def test_wrong_arguments_are_one_line(clean, tmp_path, capsys):
    words = ["--dataset", "NUDT-MIRSDT", "--datapath", clean]
    assert "sigma -1" in refusal([*words, "--sigma", "-1"], capsys)
    assert "gain nan" in refusal([*words, "--gain", "nan"], capsys)
    assert "seed -1" in refusal([*words, "--seed", "-1"], capsys)
    for workers in ("0", "-1", "two"):
        line = refusal([*words, "--workers", workers], capsys)
        assert f"--workers: '{workers}': expected a number from 1" in line
    assert "invalid choice" in refusal([*words, "--pattern", "moving"], capsys)
    assert "unknown data set 'X'" in refusal(["--dataset", "X"], capsys)
    assert "no such folder" in refusal([*words[:3], tmp_path / "none"], capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    assert "remove it" in refusal([*words, "--output", tmp_path / "full"], capsys)
    assert not list(tmp_path.glob("*.partial"))


def test_frames_that_are_no_integers_are_refused(tmp_path, capsys):
    np.save(tmp_path / "clip.npy", np.zeros((3, 8, 9), np.float32))
    line = refusal(["--dataset", "Frames", "--datapath", tmp_path / "clip.npy"], capsys)
    assert "float32; expected 8 or 16 bits" in line


def test_a_masked_image_is_black_and_white(tmp_path):
    masks = np.zeros((2, 8, 9), np.uint8)
    masks[:, 2, 3] = 1
    np.savez(tmp_path / "clip.npz", frames=masks + 50, masks=masks)
    spec = get_spec("Frames")
    write_noisy(spec, tmp_path / "clip.npz", tmp_path / "out", StrongNoise(), 1, progress=False)
    with Image.open(tmp_path / "out/clip/masks/00001.png") as image:
        assert image.mode == "L" and np.unique(np.asarray(image)).tolist() == [0, 255]

"""Synthetic sequences: their layout, their targets against the definitions, and refusals."""

import csv
import errno
import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data.lists import LOW_SNR_LIMIT
from data.saving import new_folder
from data.synthetic import scenes, sensor, writing
from data.synthetic.__main__ import main
from data.synthetic.plans import PRESETS, Preset, plan_sequences
from data.synthetic.rendering import render_sequence
from data.synthetic.targets import draw_targets
from data.synthetic.writing import write_synthetic

TINY = Preset(5, 2, 5, 2, frames=11, heights=(47, 53), widths=(50, 61))
SEED = 7
CONNECTED = np.ones((3, 3), int)


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("synthetic") / "data"
    write_synthetic(output, TINY, seed=SEED, workers=1, progress=False)
    return output


@pytest.fixture(scope="module")
def sequences():
    return [render_sequence(plan) for plan in plan_sequences(TINY, SEED)]


def contents(folder):
    """Digest of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_rows(folder):
    with open(folder / "snr.csv", newline="") as file:
        return list(csv.DictReader(file))


def refusal(argv, capsys):
    """The one line that main leaves on stderr before it exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert all("sequence/s" in line or "s/sequence" in line for line in lines[:-1])  # the bar
    return lines[-1]


def test_two_workers_write_the_same_bytes_as_one(folder, tmp_path):
    write_synthetic(tmp_path / "again", TINY, seed=SEED, workers=2, progress=False)
    assert contents(tmp_path / "again") == contents(folder)


def test_another_seed_gives_other_sequences(sequences):
    other = render_sequence(plan_sequences(TINY, SEED + 1)[0])
    first = sequences[0]
    assert (other.clean.shape, other.clean.tobytes()) != (first.clean.shape, first.clean.tobytes())


def test_lists_name_every_frame_in_order_and_every_frame_has_its_masks(folder):
    for split, numbers in (("train", range(1, 6)), ("test", range(6, 11))):
        lines = (folder / f"{split}.txt").read_text().splitlines()
        assert lines == [f"Sequence{n}/images/{i:05d}.png" for n in numbers for i in range(1, 12)]
        for line in lines:
            assert (folder / line).is_file()
    for kind in ("images", "masks", "masks_centroid"):
        assert len(list(folder.glob(f"*/{kind}/*.png"))) == 110


def test_files_hold_what_was_rendered_as_8_bit_grey(folder, sequences):
    for sequence in sequences[::3]:
        for kind, stack in (
            ("images", sequence.frames),
            ("masks", 255 * sequence.masks),
            ("masks_centroid", 255 * sequence.centroids),
        ):
            for i in (1, TINY.frames):
                with Image.open(folder / sequence.plan.name / kind / f"{i:05d}.png") as image:
                    assert image.mode == "L"
                    np.testing.assert_array_equal(np.asarray(image), stack[i - 1])


def test_snr_csv_has_a_row_per_sequence_with_the_measured_snr(folder, sequences):
    rows = read_rows(folder)
    assert [row["sequence"] for row in rows] == [f"Sequence{n}" for n in range(1, 11)]
    for row, sequence in zip(rows, sequences, strict=True):
        assert row["split"] == sequence.plan.split
        assert float(row["snr"]) == pytest.approx(sequence.snr, abs=1e-4)
        assert (int(row["height"]), int(row["width"])) == sequence.frames.shape[1:]
        assert int(row["target_frames"]) == sequence.centroids.sum()


def test_each_split_has_the_planned_number_of_low_snr_sequences(folder):
    for split in ("train", "test"):
        snrs = [float(row["snr"]) for row in read_rows(folder) if row["split"] == split]
        assert all(0 < snr <= 10 for snr in snrs)
        assert sum(snr <= LOW_SNR_LIMIT for snr in snrs) == 2


@pytest.mark.parametrize("name", ["small", "full"])
def test_presets_have_every_background_and_both_snr_subsets_in_each_split(name):
    preset = PRESETS[name]
    plans = plan_sequences(preset, 46)
    for split, count, low in (
        ("train", preset.train, preset.train_low),
        ("test", preset.test, preset.test_low),
    ):
        own = [plan for plan in plans if plan.split == split]
        assert len(own) == count
        assert {plan.background for plan in own} == set(scenes.BACKGROUNDS)
        assert sum(plan.snr <= LOW_SNR_LIMIT for plan in own) == low
        assert all(min(plan.height, plan.width) >= 128 for plan in own)


def test_targets_are_1_to_9_pixels_with_one_centroid_in_each(sequences):
    for sequence in sequences:
        assert sequence.masks.max() == 1 and sequence.masks.dtype == np.uint8
        assert not np.any(sequence.centroids > sequence.masks)
        for mask, centroid in zip(sequence.masks, sequence.centroids, strict=True):
            labels, count = ndimage.label(mask, CONNECTED)
            assert sorted(labels[centroid > 0]) == list(range(1, count + 1))
            assert count <= 3
            assert all(1 <= area <= 9 for area in np.bincount(labels.ravel())[1:])


def test_targets_are_masked_exactly_while_their_position_is_in_the_frame(sequences):
    for sequence in sequences:
        size = np.array(sequence.frames.shape[1:])
        positions = np.stack([t.exposures.mean(axis=1) for t in sequence.targets], axis=1)
        inside = np.all((np.rint(positions) >= 0) & (np.rint(positions) < size), axis=2)
        np.testing.assert_array_equal(inside.sum(axis=1), sequence.centroids.sum(axis=(1, 2)))
        for centroid, at, visible in zip(sequence.centroids, positions, inside, strict=True):
            for position in at[visible]:
                distances = np.abs(np.argwhere(centroid) - position).max(axis=1)
                assert distances.min() <= 1.5


def test_targets_are_within_the_frame_by_more_than_rounding_for_a_fifth_of_the_time():
    # Between two points of one side a path lies on the border, where no protocol can count it.
    for seed in range(60):
        rng = np.random.default_rng(seed)
        for target in draw_targets(rng, 40, 50, 60, np.zeros((40, 2))):
            to_border = np.minimum(target.path + 0.5, (49.5, 59.5) - target.path).min(axis=1)
            assert (to_border > 1e-3).sum() >= 8


def test_targets_move_at_0_2_to_2_pixels_per_frame(sequences):
    for sequence in sequences:
        for target in sequence.targets:
            speeds = np.hypot(*np.diff(target.path, axis=0).T)
            assert speeds.min() >= 0.195 and speeds.max() <= 2.0


def test_brightness_never_jumps(sequences):
    for sequence in sequences:
        for target in sequence.targets:
            assert target.brightness.min() > 0.3
            assert np.abs(np.diff(target.brightness)).max() < 0.4


def test_snr_is_the_mean_peak_contrast_over_the_local_standard_deviation(sequences):
    for sequence in sequences:
        added = sequence.frames.astype(float) - sequence.clean
        ratios = []
        for t, mask in enumerate(sequence.masks):
            labels, count = ndimage.label(mask, CONNECTED)
            outside = ~ndimage.binary_dilation(mask, np.ones((5, 5)))
            for k in range(1, count + 1):
                # The definition takes the brightest pixel before quantisation; with ties and with
                # pixels nearly as bright, the brightest after it can be a neighbour.
                row, column = np.unravel_index(np.argmax(added[t] * (labels == k)), mask.shape)
                window = np.s_[max(row - 10, 0) : row + 11, max(column - 10, 0) : column + 11]
                ratios.append(
                    added[t, row, column] / sequence.clean[t][window][outside[window]].std()
                )
        assert sequence.snr == pytest.approx(np.mean(ratios), rel=0.08, abs=0.1)


def test_frames_differ_from_the_clean_ones_only_near_targets(sequences):
    for sequence in sequences:
        near = np.zeros(sequence.frames.shape, bool)
        for target in sequence.targets:
            corners = np.rint(target.exposures.mean(axis=1)).astype(int)
            for t, (row, column) in enumerate(corners):
                low, high = np.maximum([row - 7, column - 7], 0), np.maximum([row, column], -8) + 8
                near[t, low[0] : high[0], low[1] : high[1]] = True
        np.testing.assert_array_equal(sequence.frames[~near], sequence.clean[~near])
        assert np.all(sequence.frames >= sequence.clean)


def test_scenes_have_the_grey_levels_of_nudt_mirsdt():
    plans = plan_sequences(Preset(15, 0, 0, 0, 3, (128, 140), (150, 170)), SEED)
    pixels = []
    for plan in plans:
        background = sensor.render_background(
            np.random.default_rng(plan.seed), plan, np.zeros((plan.frames, 2))
        )
        assert background.min() > 20 and background.max() < 250
        assert 4 < background.std() < 45
        pixels.append(background.ravel())
    pixels = np.concatenate(pixels)
    assert pixels.mean() == pytest.approx(105.4, abs=8)
    assert pixels.std() == pytest.approx(26.6, abs=4)


def test_spline_view_moves_a_scene_by_a_fraction_of_a_sample():
    rows, columns = np.mgrid[:60, :70].astype(np.float32)
    scene = np.sin(rows / 6) + np.cos(columns / 7)
    coefficients = ndimage.spline_filter(scene, order=3, output=np.float32)
    view = sensor.spline_view(coefficients, 12.3, 11.75, 15, 16)
    r, c = np.mgrid[:15, :16] * scenes.SUPERSAMPLING
    expected = np.sin((r + 12.3) / 6) + np.cos((c + 11.75) / 7)
    np.testing.assert_allclose(view, expected, atol=1e-3)


def test_power_law_field_does_not_wrap_around():
    field = scenes.power_law_field(np.random.default_rng(3), (90, 121), 3, 40)
    assert field.shape == (90, 121)
    step = np.abs(np.diff(field, axis=0)).mean()
    assert np.abs(field[0] - field[-1]).mean() > 3 * step


def test_the_same_generation_is_left_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(writing, "write_sequence", None)
    before = contents(folder)
    write_synthetic(folder, TINY, seed=SEED, workers=1, progress=False)
    assert contents(folder) == before


def test_an_empty_folder_may_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "write_sequence", lambda plan, folder: {"sequence": plan.name})
    (tmp_path / "out").mkdir()
    write_synthetic(tmp_path / "out", TINY, workers=1, progress=False)
    assert (tmp_path / "out" / "snr.csv").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_folders_are_refused(folder, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    line = refusal(["--output", str(tmp_path), "--preset", "tiny"], capsys)
    assert str(tmp_path) in line
    line = refusal(["--output", str(folder), "--preset", "tiny", "--seed", "8"], capsys)
    assert "not a complete generation" in line


def test_a_generation_that_lost_a_file_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writing, "write_sequence", lambda plan, folder: {"sequence": plan.name})
    write_synthetic(tmp_path / "out", TINY, workers=1, progress=False)  # lists without frames
    argv = ["--output", str(tmp_path / "out"), "--preset", "tiny"]
    assert "not a complete generation" in refusal(argv, capsys)


def test_wrong_arguments_and_unwritable_folders_are_refused(tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    assert "unknown preset 'huge'" in refusal([*out, "--preset", "huge"], capsys)
    assert "seed -1" in refusal([*out, "--seed", "-1"], capsys)
    for workers in ("0", "-1", "two"):
        line = refusal([*out, "--workers", workers], capsys)
        assert f"--workers: '{workers}': expected a number from 1" in line
    (tmp_path / "file").write_text("")
    refusal(["--output", str(tmp_path / "file" / "out"), "--preset", "tiny"], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), None])
def test_a_generation_cut_short_leaves_nothing(error, tmp_path, capsys, monkeypatch):
    write = writing.write_sequence

    def fail_at_the_second(plan, folder):
        if plan.name == "Sequence2":
            raise error or KeyboardInterrupt
        return write(plan, folder)

    monkeypatch.setattr(writing, "write_sequence", fail_at_the_second)
    argv = ["--output", str(tmp_path / "out"), "--preset", "tiny", "--workers", "1"]
    if error:
        assert "No space left" in refusal(argv, capsys)
    else:
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 130
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_generate_the_same_at_once_both_succeed(folder, tmp_path, monkeypatch):
    output, write_lists = tmp_path / "out", writing.write_lists

    def another_is_faster(*given):
        write_lists(*given)
        shutil.copytree(folder, output)

    monkeypatch.setattr(writing, "write_lists", another_is_faster)
    write_synthetic(output, TINY, seed=SEED, progress=False, workers=1)
    assert contents(output) == contents(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_generation_that_appears_meanwhile_is_told_in_one_line(
    folder, tmp_path, monkeypatch
):
    output, write_lists = tmp_path / "out", writing.write_lists

    def another_is_faster(*given):
        write_lists(*given)
        (output / "mine").mkdir(parents=True)

    monkeypatch.setattr(writing, "write_lists", another_is_faster)
    with pytest.raises(FileExistsError, match="is not a complete generation of this preset"):
        write_synthetic(output, TINY, seed=SEED, progress=False, workers=1)
    assert [path.name for path in output.iterdir()] == ["mine"]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path):
    left = tmp_path / f"out.partial-{os.getpid()}"
    left.mkdir()
    with new_folder(tmp_path / "out") as made:
        (made / "file").touch()
    assert (tmp_path / "out/file").is_file() and left.is_dir()

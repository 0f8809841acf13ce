"""Checkpoints: safe to read, whole or not there, refused with a reason, and started from."""

import os
import pickle
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

import train as train_script
from models import MODELS, build_model
from models.detector import Detector
from tests.builders import call
from tests.training.runs import TRAINING, history, proceed, refused, run_folder, train
from utils.checkpoint import load, load_weights, main, save
from utils.command_line import run_command
from utils.run_dir import INCLUDED, RunDir, starting_weights


def state_of(name, seqlen=6, **extra):
    return {"epoch": 3, "model_state_dict": build_model(name, seqlen).state_dict(), **extra}


def test_what_is_saved_is_loaded_and_torch_reads_it_by_default(tmp_path):
    path = tmp_path / "best_model.pth"
    state = state_of("DeepPro", class_avg_iou=0.5, args={"model": "DeepPro", "seqlen": 6})
    save(path, state)
    for loaded in (load(path), torch.load(path)):
        assert loaded["epoch"] == 3 and loaded["args"] == state["args"]
        for key, tensor in state["model_state_dict"].items():
            assert torch.equal(tensor, loaded["model_state_dict"][key])
    assert os.listdir(tmp_path) == ["best_model.pth"]


@pytest.mark.parametrize("number", [np.float64(0.84), np.float32(0.5)])
def test_numpy_scalars_of_released_checkpoints_are_read(tmp_path, number):
    path = tmp_path / "released.pth"
    torch.save(state_of("DeepPro", class_avg_iou=number), path)
    assert load(path)["class_avg_iou"] == number


def test_every_released_checkpoint_is_read(shared):
    paths = sorted((shared / "released/sem_seg").glob("*/checkpoints/best_model.pth"))
    assert len(paths) == 4
    for path in paths:
        state = load(path)
        name = next(n for n in MODELS if f"_{n}_DataL" in str(path))
        assert state["epoch"] >= 0 and MODELS[name].clip_length(state["model_state_dict"]) == 40


def weights_of(state):
    return state["model_state_dict"]


@pytest.mark.parametrize(
    "wrap",
    [
        weights_of,
        lambda state: {"state_dict": weights_of(state), "epoch": 7},
        lambda state: {"model": weights_of(state)},
        lambda state: {"module." + key: value for key, value in weights_of(state).items()},
        lambda state: {
            "state_dict": {"module._orig_mod." + k: v for k, v in weights_of(state).items()}
        },
        lambda state: {**state, "model_state_dict": OrderedDict(weights_of(state))},
        lambda state: {
            k: v.half() if v.is_floating_point() else v for k, v in weights_of(state).items()
        },
    ],
    ids=["bare", "state_dict", "model", "module.", "module._orig_mod.", "OrderedDict", "half"],
)
def test_weights_saved_in_other_ways_are_read(tmp_path, wrap):
    state = state_of("DeepPro-Plus")
    torch.save(wrap(state), tmp_path / "x.pth")
    checkpoint, model = load(tmp_path / "x.pth"), build_model("DeepPro-Plus", 6)
    load_weights(model, checkpoint, "DeepPro-Plus", "x.pth")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, weights_of(state)[key], rtol=1e-3, atol=1e-3)
    assert checkpoint.get("epoch") in (None, 3, 7)


class OneLayer(Detector):
    """A detector whose weights do not tell the length of its clips."""

    def __init__(self, seqlen=3, width=2):
        super().__init__(seqlen)
        self.mix = torch.nn.Conv3d(1, width, 1)


def test_weights_of_eight_bits_are_read_as_numbers():
    weights = state_of("DeepPro")["model_state_dict"]
    kind = torch.float8_e4m3fn
    short = {k: v.to(kind) if v.is_floating_point() else v for k, v in weights.items()}
    model = build_model("DeepPro", 6)
    load_weights(model, {"model_state_dict": short}, "DeepPro", "x.pth")
    assert torch.equal(model.final.weight, weights["final.weight"].to(kind).float())


def test_weights_of_any_detector_are_compared_by_key_and_shape():
    state = {"model_state_dict": OneLayer().state_dict()}
    load_weights(OneLayer(5), state, "OneLayer", "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: mix.weight is \(2, .* OneLayer has \(3, "):
        load_weights(OneLayer(width=3), state, "OneLayer", "x.pth")


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, write):
    victim = tmp_path / "executed"
    path = tmp_path / "best_model.pth"
    write({"model_state_dict": Malicious(victim)}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="refused") as error:
            load(path)
    assert not victim.exists()
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    "state",
    [
        {"model_state_dict": {"a": 1}},
        {"model_state_dict": {1: torch.zeros(1)}},
        {"model_state_dict": {}},
        {},
        [torch.zeros(1)],
        torch.zeros(1),
    ],
)
def test_a_file_with_other_contents_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load(tmp_path / "x.pth")


def test_damaged_checkpoints_never_end_in_another_error(tmp_path, rng):
    path = tmp_path / "x.pth"
    torch.save({"model_state_dict": {"a": torch.zeros(3)}}, path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(len(whole), size=4)] = rng.integers(256, size=4)
        path.write_bytes(damaged.tobytes())
        try:
            load(path)
        except ValueError as error:
            assert "\n" not in str(error)


def test_one_flipped_bit_of_the_weights_is_noticed(tmp_path):
    path = tmp_path / "best_model.pth"
    state = state_of("DeepPro")
    save(path, state)
    content = bytearray(path.read_bytes())
    some = next(v for v in weights_of(state).values() if v.dim() > 1)
    content[content.index(some.numpy().tobytes()) + 3] ^= 0x40  # in an exponent
    path.write_bytes(content)
    with pytest.raises(ValueError, match="best_model.pth: damaged.*Bad CRC-32.*data/"):
        load(path)


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save(tmp_path / "x.pth", state_of("DeepPro"))
    finally:
        torch.serialization.set_crc32_options(True)
    assert load(tmp_path / "x.pth")["epoch"] == 3


def test_a_compressed_file_is_not_unpacked(tmp_path):
    save(tmp_path / "x.pth", state_of("DeepPro"))
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match="bomb.pth: refused.*is compressed"):
        load(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.long(), "is of type torch.int64 where OneLayer has torch.float32"),
        (lambda weights: weights > 0, "is of type torch.bool"),
        (lambda weights: weights * float("nan"), "holds NaN or infinite numbers"),
    ],
)
def test_weights_that_are_no_real_numbers_are_refused(change, words):
    weights = {key: change(value) for key, value in OneLayer().state_dict().items()}
    with pytest.raises(ValueError, match=rf"x.pth: mix.\w+ {words}"):
        load_weights(OneLayer(), {"model_state_dict": weights}, "OneLayer", "x.pth")


def test_variances_below_0_are_refused():
    state = state_of("DeepPro")
    key = next(key for key in weights_of(state) if key.endswith("running_var"))
    weights_of(state)[key][0] = -1e-3
    with pytest.raises(ValueError, match=rf"x.pth: {key} holds numbers below 0"):
        load_weights(build_model("DeepPro", 6), state, "DeepPro", "x.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken zip", pickle.dumps([1])])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "best_model.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="best_model.pth") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "best_model.pth"
    save(path, state_of("DeepPro"))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load(path)


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load(tmp_path / "best_model.pth")


def test_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match="weights of another network.*checkpoint of DeepPro$"):
        load_weights(build_model("DeepPro", 6), state_of("DeepPro-Plus"), "DeepPro", "x.pth")


def test_weights_of_another_clip_length_are_refused_with_the_flag_to_use():
    with pytest.raises(ValueError, match="clips of 6 frames.*--seqlen 6"):
        load_weights(build_model("DeepPro", 8), state_of("DeepPro"), "DeepPro", "x.pth")


def test_a_failed_write_leaves_the_previous_checkpoint_unharmed(tmp_path, monkeypatch):
    path = tmp_path / "last_model.pth"
    save(path, state_of("DeepPro"))
    before = path.read_bytes()

    def full_disk(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="could not be written.*No space left"):
        save(path, state_of("DeepPro"))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last_model.pth"]


def test_the_command_that_strips_checkpoints_has_a_help_and_one_line_errors(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0 and "FILE" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        run_command(lambda: main([str(tmp_path / "absent.pth")]))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and "no such checkpoint" in error


@pytest.mark.usefixtures("untested")
def test_a_training_starts_from_weights_and_goes_on_without_their_file(dataset, tmp_path, run):
    file = tmp_path / "start.pth"
    checkpoint = load(RunDir(run).checkpoint("best"))
    checkpoint["args"] |= {"mean": 90.5, "std": 12}
    torch.save(checkpoint, file)
    start = checkpoint["model_state_dict"]
    folder = train(dataset, tmp_path, "DeepPro", f"--epoch 1 --weights {file} --learning_rate 1e-5")
    again = file.parent / "logs" / ".." / file.name
    (file.parent / "logs").mkdir()
    assert proceed(folder, f"--epoch 1 --weights {again}") == 0
    file.unlink()
    found = load(RunDir(folder).checkpoint("last"))["model_state_dict"]
    weights = [key for key in start if key.endswith("weight")]
    assert all(torch.allclose(found[key], start[key], atol=2e-3) for key in weights)
    told = f"Starting from the weights of {file}, of frames of mean 90.5 and std 12"
    assert told in (folder / "logs/DeepPro.txt").read_text()
    assert proceed(folder, "--epoch 2") == 0
    assert len(history(folder)) == 2


def test_the_included_weights_for_footage_have_a_name(tmp_path, monkeypatch):
    detector = build_model("DeepPro-Plus")
    load_weights(detector, load(starting_weights("included")), "DeepPro-Plus", "included")
    (tmp_path / "included").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="./included: the file"):
        assert starting_weights("included").is_file()
    with warnings.catch_warnings(action="error"):
        assert starting_weights("./included") == tmp_path / "included"
        assert starting_weights(str(starting_weights("./included"))) == tmp_path / "included"


def test_weights_that_do_not_fit_are_refused_before_a_run_folder_is_made(
    dataset, tmp_path, run, capsys
):
    file = RunDir(run).checkpoint("best")
    given = f"--datapath {dataset} --savepath {tmp_path} --gpu cpu {TRAINING} --weights"
    refused(capsys, call(train_script, given, file), "weights of another network", "best_model")
    included = f"--model DeepPro {given} included"
    refused(capsys, call(train_script, included), INCLUDED["Frames"].name, "another network")
    refused(capsys, call(train_script, given, tmp_path / "none.pth"), "none.pth: no such")
    status = proceed(run, f"--epoch 9 --weights {file}")
    refused(capsys, status, "a run goes on from its own weights")
    assert not (tmp_path / "sem_seg").exists()


@pytest.mark.usefixtures("untested")
def test_a_run_that_has_no_checkpoint_starts_from_weights_when_asked(dataset, tmp_path, capsys):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    assert call(train_script, arguments) == 0
    folder, file = run_folder(tmp_path), tmp_path / "start.pth"
    RunDir(folder).checkpoint("best").rename(file)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    status = call(train_script, arguments, f"--log_dir {folder.name} --weights {file}")
    assert status == 0 and f"Starting from the weights of {file}" in capsys.readouterr().out

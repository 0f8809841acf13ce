"""Builds small data sets on disk, calls scripts, compares what they write."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data import images
from data.sequences import FrameBlock
from models import MODELS, build_model
from utils.command_line import run_command

NUDT_NORMALISATION = (105.4025, 26.6452)
# The detectors that are described as stages: with a fast engine, fast training, export.
STAGED = [name for name in MODELS if build_model(name).stages() is not None]


def write_image(path, pixels):
    """Writes an array as an image, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def random_sequence(rng, frames, height, width):
    """Frames (N, H, W) uint8 and masks with one pixel a frame, uint8 in {0, 255}."""
    images = rng.integers(60, 150, (frames, height, width), dtype=np.uint8)
    masks = np.zeros_like(images)
    masks[np.arange(frames), np.arange(frames) % height, np.arange(frames) % width] = 255
    return images, masks


def write_nudt_sequence(root, name, images, masks, centroids=True):
    """Writes one sequence in NUDT-MIRSDT's layout."""
    for number, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        write_image(root / name / "images" / f"{number:05d}.png", image)
        write_image(root / name / "masks" / f"{number:05d}.png", mask)
        if centroids:
            write_image(root / name / "masks_centroid" / f"{number:05d}.png", mask)


def write_list(path, names, newline="\n"):
    """Writes a list file with one `<sequence>/images/00001.png` a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = newline.join(f"{name}/images/00001.png" for name in names) + newline
    path.write_bytes(text.encode())


class ArraySequence:
    """A test sequence made of arrays, as `data.sequences` gives those of files."""

    def __init__(self, name, frames, masks=None, centroids=None, normalisation=(100.0, 20.0)):
        self.name, self.frames, self.masks, self.normalisation = name, frames, masks, normalisation
        self.centroids = masks if centroids is None else centroids
        self.labelled = masks is not None
        self.numbers, self.file_names = range(1, len(frames) + 1), None
        self.earlier = None

    def __len__(self):
        return len(self.frames)

    def read(self, start, stop):
        arrays = self.frames, self.masks, self.centroids
        return FrameBlock(start, *(None if a is None else a[start:stop] for a in arrays))

    def blocks(self, size):
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))


def call(script, *arguments):
    """Exit status of a script's main with these arguments."""
    words = [word for argument in arguments for word in str(argument).split(" ")]
    try:
        run_command(lambda: script.main(script.parse_args(words)))
    except SystemExit as stop:
        return stop.code
    return 0


def call_test(*arguments):
    """Runs test.py on the CPU; it must succeed."""
    import test as test_script  # here: most tests need no script

    assert call(test_script, *arguments, "--gpu cpu") == 0


def agrees(ours, golden):
    """False-alarm pixels within 2 pixels or 0.1 %."""
    return (np.abs(np.array(ours) - golden) <= np.maximum(2, 1e-3 * golden)).all()


def compare_eval(ours, golden):
    """The same lines but for time stamps and last digits of false alarms."""
    ours, golden = (path.read_text("utf-8").splitlines() for path in (ours, golden))
    assert len(ours) == len(golden)
    for line, expected in zip(ours, golden, strict=True):
        line, expected = line[23:], expected[23:]  # behind the time stamp
        if "FA:[" not in expected:
            if "AUC:" in expected:
                (line, auc), (expected, golden_auc) = line.split("AUC:"), expected.split("AUC:")
                assert float(auc) == pytest.approx(float(golden_auc), abs=1e-5)
            assert line == expected
            continue
        (line, alarms), (expected, golden_alarms) = line.split("FA:["), expected.split("FA:[")
        assert line == expected
        (count, fa), (golden_count, golden_fa) = (
            text.rstrip("]").split(", ") for text in (alarms, golden_alarms)
        )
        assert agrees([int(count)], np.array([int(golden_count)]))
        assert len(fa) == len(golden_fa)
        assert float(fa) == pytest.approx(float(golden_fa), rel=1e-2, abs=1e-9)


def perturbed(name, seqlen=5):
    """A detector whose BatchNorms have statistics and weights as after training, not 0 and 1."""
    torch.manual_seed(46)
    return perturb(build_model(name, seqlen))


def perturb(model):
    """Gives a network's BatchNorms such statistics and weights; in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.3, 2)
            nn.init.uniform_(module.bias, -1, 1)
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.2, 3)
    return model.eval()


@contextmanager
def torch_threads(count):
    """Sets torch's number of threads, in this thread and for those to come, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def record_decoding(monkeypatch):
    """A list that will hold every path of an image that is decoded from now on."""
    decoded, original = [], images._picture

    def decode(path, *options):
        decoded.append(path)
        return original(path, *options)

    monkeypatch.setattr(images, "_picture", decode)
    return decoded


def write_video(path, frames, said=0, codec="libx264", first=0, **options):
    """Writes the luma planes as they are: (n, H, W) uint8; `said` of their range.

    `first`: when the first is shown, in frames; those before 0 are not.
    """
    av = pytest.importorskip("av", reason="no decoder for videos; pip install av")
    with av.open(str(path), "w") as video:
        stream = video.add_stream(codec, rate=10, options={"qp": "0"} | options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt, stream.codec_context.color_range = "yuv420p", said
        grey = np.full((len(frames), frames.shape[1] // 2, frames.shape[2]), 128, np.uint8)
        for number, planes in enumerate(np.concatenate([frames, grey], 1), first):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            frame.color_range = said
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return path

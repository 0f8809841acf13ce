"""Exported detectors: read back, they give the same logits at other sizes."""

import errno
from importlib.util import find_spec

import pytest
import torch

from models import build_model
from models.detector import Detector
from models.export import ONNX_PACKAGES, export_model
from tests.builders import perturbed

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ONNX_PACKAGES)), reason="onnx and onnxscript are not installed"
)


@pytest.mark.parametrize("name", ["DeepPro", "DeepPro-Plus_forMovingScenes"])
def test_pt2_loads_back_for_any_size(name, tmp_path):
    model = perturbed(name, 7)
    path = export_model(model, tmp_path / "model.pt2")
    loaded = torch.export.load(path).module()
    for height, width in [(8, 8), (31, 47), (40, 9)]:
        clip = torch.randn(1, 1, 7, height, width)
        with torch.no_grad():
            torch.testing.assert_close(loaded(clip), model(clip), atol=3e-6, rtol=1e-5)


class InThrees(Detector):
    """Means over three neighbours, so it takes no other width than a multiple of three."""

    seqlen, side_multiple = 2, 3

    def detect(self, clip):
        return clip.unflatten(4, (-1, 3)).mean(-1).repeat_interleave(3, dim=-1)


def test_sides_are_multiples_of_what_the_detector_asks_for(tmp_path):
    loaded = torch.export.load(export_model(InThrees(), tmp_path / "model.pt2")).module()
    clip = torch.randn(1, 1, 2, 9, 24)
    assert torch.equal(loaded(clip), InThrees()(clip))


@pytest.mark.parametrize(
    ("name", "words"), [("Res-U+RFR", "recurrent"), ("TopHat", "it is a filter")]
)
def test_what_is_no_single_program_is_refused(name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export_model(build_model(name), tmp_path / "model.pt2")


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.pt2 or \.onnx"):
        export_model(build_model("DeepPro"), tmp_path / "model.pth")


@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=needs_onnx)])
def test_what_cannot_be_written_leaves_what_was_there(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"model{suffix}"
    path.write_text("an earlier one")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match=f"model{suffix}: could not be written .No space left"):
        export_model(InThrees(), path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "an earlier one"
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        export_model(InThrees(), tmp_path / "folder.pt2")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export_model(build_model("DeepPro"), tmp_path / "nowhere" / "model.pt2")


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("models.export.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install"):
        export_model(build_model("DeepPro"), tmp_path / "model.onnx")


@needs_onnx
def test_onnx_gives_the_same_logits(tmp_path):
    reference = pytest.importorskip("onnx.reference")
    model = perturbed("DeepPro-Plus_forMovingScenes", 7)  # which has all kinds of layers
    path = export_model(model, tmp_path / "model.onnx")
    assert [*tmp_path.iterdir()] == [path]  # with the weights in it
    clip = torch.randn(1, 1, 7, 13, 11)
    (logits,) = reference.ReferenceEvaluator(str(path)).run(None, {"clip": clip.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(clip), atol=3e-5, rtol=1e-4)

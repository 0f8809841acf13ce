"""OpenVINO as an engine: the network's own scores, in bands of any number, within its budget."""

import copy
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import models.openvino as module
from models import build_model
from models.openvino import compile_openvino
from tests.builders import perturb
from tests.training.runs import one_thread

NETWORKS = ("DeepPro", "DeepPro-Plus", "DeepPro-Plus_forMovingScenes")
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")


def network(name, seqlen=8):
    return perturb(build_model(name, seqlen)).eval()


@torch.no_grad()
def scores(detector, clip):
    return torch.sigmoid(detector(clip)).numpy()


@needs_openvino
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_in_bands_are_the_networks_own(name):
    model, clip = network(name), torch.randn(2, 1, 8, 70, 14)
    fast = compile_openvino(model)
    assert fast.plan(70, 14) == [(0, 70)]
    fast = compile_openvino(model, memory=14 * 64 * fast.bytes_per_pixel)
    (start, middle), (joint, end) = fast.plan(70, 14)
    assert (start, end) == (0, 70) and middle == joint
    np.testing.assert_allclose(scores(fast, clip), scores(model, clip), atol=2e-6)


@needs_openvino
@pytest.mark.parametrize("name", NETWORKS)
def test_the_fewest_bands_that_fit_are_taken(name):
    fast = compile_openvino(network(name))
    for rows in (70, 100, 133, 300):
        fast.budget, fast.planned = 14 * rows * fast.bytes_per_pixel, (None, None)
        bands = fast.plan(300, 14)
        assert bands[0][0] == 0 and bands[-1][1] == 300
        assert all(one[1] == other[0] for one, other in zip(bands, bands[1:], strict=False))

        def needed(count):
            edges = [300 * i // count for i in range(count + 1)]
            boxes = [(top, 0, bottom, 14) for top, bottom in zip(edges, edges[1:], strict=False)]
            parts = [fast.folded[0].excerpt((300, 14), box) for box in boxes]
            return max(part.bottom - part.top for part in parts)

        assert needed(len(bands)) <= rows
        assert len(bands) == 1 or needed(len(bands) - 1) > rows


@needs_openvino
def test_frames_of_another_size_have_scores_of_their_own():
    model = network("DeepPro-Plus")
    fast = compile_openvino(model)
    for size in ((24, 20), (17, 33)):
        clip = torch.randn(1, 1, 8, *size)
        np.testing.assert_allclose(scores(fast, clip), scores(model, clip), atol=2e-6)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda clip: scores(fast, clip), [clip] * 4):
            np.testing.assert_array_equal(found, scores(fast, clip))


@needs_openvino
def test_a_copy_and_another_number_of_threads_change_nothing():
    clip = torch.randn(1, 1, 8, 15, 17)
    fast = compile_openvino(network("DeepPro-Plus"))
    expected = scores(fast, clip)
    other = copy.deepcopy(fast)
    with one_thread():
        assert other.current == (None, None) and other.programs == {}
        np.testing.assert_allclose(scores(other, clip), expected, atol=1e-6)
        assert other.current[0][1] == 1


@needs_openvino
def test_the_package_reports_nothing():
    module.import_openvino()
    utilities = import_module("openvino.tools.ovc.telemetry_utils")
    assert utilities.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


@needs_openvino
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_clip_with_what_is_no_number_is_refused(value):
    clip = torch.zeros(1, 1, 8, 15, 17)
    clip[0, 0, 3, 4, 5] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        compile_openvino(network("DeepPro-Plus"))(clip)


@needs_openvino
def test_a_budget_that_holds_no_row_is_refused():
    fast = compile_openvino(network("DeepPro-Plus"), memory="1KiB")
    with pytest.raises(ValueError, match="memory budget of 1024 bytes: frames 20 pixels wide need"):
        fast(torch.zeros(1, 1, 8, 24, 20))


@needs_openvino
@pytest.mark.parametrize(
    "name, options, message",
    [
        ("DeepPro", {"precision": "bf16"}, "computes in fp32"),
        ("DeepPro", {"memory": "much"}, "memory budget 'much'"),
        ("Res-UNet+DTUM", {}, "not described by stages"),
    ],
)
def test_what_it_cannot_do_is_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        compile_openvino(build_model(name), **options)
    assert "\n" not in str(error.value)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install openvino"):
        compile_openvino(network("DeepPro"))

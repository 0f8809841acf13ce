"""An excerpt gives the logits of the whole frame, and nothing around it matters to them."""

import pytest
import torch
from torch import nn

from models import MODELS, build_model
from models.detector import Detector
from models.stages import StagedDetector
from tests.builders import perturbed

PAPER = [name for name, model in MODELS.items() if issubclass(model, StagedDetector)]
T = 5


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(
    "shape, box",
    [
        ((64, 72), (30, 33, 33, 35)),
        ((61, 70), (0, 0, 1, 1)),
        ((63, 59), (62, 56, 63, 59)),
        ((70, 90), (36, 40, 37, 41)),
        ((9, 75), (3, 70, 6, 75)),
        ((6, 5), (0, 0, 6, 5)),
    ],
)
def test_logits_of_the_box_are_those_of_the_whole_frame(name, shape, box):
    model = perturbed(name, T)
    clip = torch.randn(2, 1, T, *shape)
    top, left, bottom, right = box
    with torch.no_grad():
        whole = model(clip)
        excerpt = model.excerpt(shape, box)
        part = clip[..., excerpt.top : excerpt.bottom, excerpt.left : excerpt.right]
        logits = excerpt.network(part)
    assert logits.shape == (2, T, *part.shape[-2:])
    expected = whole[..., top:bottom, left:right]
    found = logits[..., top - excerpt.top :, left - excerpt.left :]
    found = found[..., : bottom - top, : right - left]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PAPER)
def test_the_gradient_in_the_whole_frame_is_that_of_the_excerpt_and_zero_around_it(name):
    model, shape, box = perturbed(name, T), (66, 79), (31, 40, 33, 42)
    excerpt = model.excerpt(shape, box)
    clip = torch.randn(1, 1, T, *shape, requires_grad=True)
    model(clip)[0, 2, 31:33, 40:42].sum().backward()
    rows, columns = slice(excerpt.top, excerpt.bottom), slice(excerpt.left, excerpt.right)
    part = clip.detach()[..., rows, columns].requires_grad_()
    logits = excerpt.network(part)[0, 2, 31 - excerpt.top :, 40 - excerpt.left :]
    logits[:2, :2].sum().backward()
    outside = clip.grad.clone()
    outside[..., rows, columns] = 0
    assert not outside.any()
    scale = clip.grad.abs().max()
    torch.testing.assert_close(
        part.grad / scale, clip.grad[..., rows, columns] / scale, rtol=1e-4, atol=1e-4
    )


def test_frames_of_large_footage_need_no_more_than_those_of_small():
    model = build_model("DeepPro-Plus", T)
    sizes = set()
    for shape in ((100, 100), (1000, 1500)):
        excerpt = model.excerpt(shape, (50, 50, 53, 52))
        sizes.add((excerpt.bottom - excerpt.top, excerpt.right - excerpt.left))
    assert sizes == {(21, 20)}  # 9 pixels on each side


def test_an_excerpt_of_nothing_is_refused():
    model = build_model("DeepPro", T)
    for box in ((3, 3, 3, 4), (0, 0, 9, 9), (-1, 0, 2, 2)):
        with pytest.raises(ValueError, match="expected in it"):
            model.excerpt((8, 8), box)


def test_a_network_without_a_description_has_no_excerpt():
    class Whole(Detector):
        def detect(self, clip):
            return nn.functional.avg_pool3d(clip, 3, 1, 1)

    assert Whole().excerpt((20, 20), (3, 3, 4, 4)) is None
    assert Whole()(torch.zeros(1, 1, 40, 4, 4)).shape == (1, 40, 4, 4)

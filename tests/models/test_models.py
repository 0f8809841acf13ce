"""The networks against the released checkpoints, golden logits and golden training traces."""

import numpy as np
import pytest
import torch

from losses import build_loss
from models import build_model
from models.difference_conv import (
    SpatialDifferenceConv3d,
    TemporalDifferenceConv3d,
    kernel_of,
    spatial_difference_kernel,
    temporal_difference_kernel,
)
from models.engine.training.network import FastTraining
from models.tpro import TPro
from tests.builders import NUDT_NORMALISATION, STAGED
from utils.checkpoint import load_weights

PARAMETERS = {"DeepPro": 49129, "DeepPro-Plus": 70913, "DeepPro-Plus_forMovingScenes": 129041}
GOLDEN_LOGITS = ("deeppro_nudt", "deeppro_noise", "deeppro_plus_nudt", "deeppro_plus_noise")


def normalised(frames, mean, std):
    return (torch.from_numpy(frames).float() - float(mean)) / float(std)


def released_model(released, golden):
    name = str(golden["model"])
    model = build_model(name)
    load_weights(model, released(str(golden["run"])), name, "released")
    return model


@pytest.mark.parametrize("case", GOLDEN_LOGITS)
def test_released_checkpoints_give_the_golden_logits(shared, released, case):
    golden = np.load(shared / "golden" / "network" / f"logits_{case}.npz")
    model = released_model(released, golden).eval()
    clip = normalised(golden["frames"], golden["mean"], golden["std"])[None, None]
    with torch.inference_mode():
        logits = model(clip)[0].numpy()
    assert np.abs(logits - golden["logits"]).max() <= 2e-4


@pytest.mark.parametrize(
    ("case", "fast"), [("deeppro", False), ("deeppro", True), ("deeppro_plus", False)]
)
def test_four_adam_steps_follow_the_golden_trace(shared, released, case, fast):
    golden = np.load(shared / "golden" / "network" / f"train_{case}.npz")
    model = released_model(released, golden).train()
    network = FastTraining(model) if fast else model
    clip = normalised(golden["frames"], *NUDT_NORMALISATION)[:, None]
    mask = torch.from_numpy(golden["mask"])
    criterion = build_loss("SoftIoU")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    losses, norms = [], {}
    for _ in range(4):
        optimizer.zero_grad()
        loss = criterion(network(clip), mask)
        loss.backward()
        norms = norms or {name: p.grad.norm().item() for name, p in model.named_parameters()}
        optimizer.step()
        losses.append(loss.item())

    assert abs(losses[0] - golden["losses"][0]) <= 1e-5
    assert np.abs(np.array(losses) - golden["losses"]).max() <= 2e-3
    model.eval()
    with torch.inference_mode():
        # Biases before a BatchNorm have no gradient but rounding, which Adam scales up to whole
        # steps, and the running means follow them late: exact arithmetic is 4.2e-3 off here.
        assert criterion(model(clip), mask).item() == pytest.approx(
            float(golden["eval_loss_after"]), abs=5e-3
        )
    assert list(norms) == golden["grad_names"].tolist()
    before_norm = biases_before_batchnorm(model)
    for name, norm in zip(golden["grad_names"].tolist(), golden["grad_norms"], strict=True):
        if name in before_norm:
            assert max(norm, norms[name]) < 3e-5, name  # rounding: sums by one thread are longer
        else:
            assert norms[name] == pytest.approx(norm, rel=1e-3), name


def biases_before_batchnorm(model):
    """Convolution biases that BatchNorm removes: their gradient is zero but for rounding."""
    convolutions = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv3d)]
    return {f"{name}.bias" for name in convolutions[:-1]}  # the last gives the logits


@pytest.mark.parametrize("name", STAGED)
def test_parameters_are_as_many_as_published(name):
    assert sum(p.numel() for p in build_model(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 6, 16, 16), "rank 5"),
        ((1, 3, 6, 16, 16), "1 channel"),
        ((1, 1, 5, 16, 16), "clips of 6 frames"),
    ],
)
def test_a_wrong_clip_is_refused_with_what_was_expected(name, shape, words):
    with pytest.raises(ValueError, match=words):
        build_model(name, seqlen=6)(torch.zeros(shape))


def test_frames_too_small_for_the_pooling_are_refused():
    with pytest.raises(ValueError, match="sides of 4 or more"):
        build_model("DeepPro", seqlen=6)(torch.zeros(1, 1, 6, 3, 16))


def test_an_unknown_model_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="DeepPro-Plus_forMovingScenes"):
        build_model("DeepPro-Max")


def test_deeppro_sees_each_pixel_alone_at_level_1():
    model = build_model("DeepPro", seqlen=6).eval()
    level = torch.nn.Sequential(model.conv_in, model.layer1, model.TPro1)
    clip = torch.randn(1, 1, 6, 5, 5)
    other = clip.clone()
    other[..., 2, 2] += 1
    with torch.inference_mode():
        changed = (level(other) != level(clip)).any(dim=(0, 1, 2))
    assert changed.nonzero().tolist() == [[2, 2]]


def test_temporal_difference_kernel_of_three_taps():
    w = torch.tensor([1.0, 5.0, 11.0]).view(1, 1, 3, 1, 1)
    expected = torch.tensor([1.0 - 5, 2 * 5.0 - 1 - 11, 11.0 - 5])
    assert torch.equal(temporal_difference_kernel(w).flatten(), expected)


@pytest.mark.parametrize("taps", [2, 3, 5])
def test_temporal_difference_of_a_constant_signal_is_the_bias(taps):
    conv = TemporalDifferenceConv3d(2, 3, (taps, 3, 3))
    out = conv(torch.full((1, 2, 7, 5, 5), 4.0))
    assert torch.allclose(out, conv.bias.view(1, 3, 1, 1, 1).expand_as(out), atol=1e-5)


def test_spatial_difference_is_what_its_equation_says(rng):
    weight = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64)
    conv = SpatialDifferenceConv3d(3, 2, (2, 3, 3), bias=False).double()
    conv.weight.data = weight
    x = torch.randn(1, 3, 4, 6, 7, dtype=torch.float64)
    frame, row, column, out = 2, 3, 4, 1
    expected = 0.0
    for channel in range(3):
        for tap in range(2):
            patch = x[0, channel, frame + tap, row - 1 : row + 2, column - 1 : column + 2]
            w = weight[out, channel, tap]
            expected += w[1, 1] * patch[1, 1] + (w * (patch[1, 1] - patch)).sum()
    assert torch.allclose(conv(x)[0, out, frame, row - 1, column - 1], expected)
    assert torch.equal(kernel_of(conv), spatial_difference_kernel(weight))


def test_the_probe_applies_each_head_to_its_group_along_time():
    probe = TPro(channels=4, heads=2, seqlen=5).eval()
    x = torch.randn(1, 4, 5, 2, 3)
    heads = torch.empty_like(x)
    for channel in range(4):
        head = probe.QK_heads[channel // 2]
        for row in range(2):
            for column in range(3):
                profile = x[0, channel, :, row, column] / 5**0.5
                heads[0, channel, :, row, column] = head.weight @ profile + head.bias
    expected = probe.conv(torch.relu(probe.norm1(heads)))
    assert torch.allclose(probe(x), expected, atol=1e-6)

"""The losses against golden values and their definitions."""

import numpy as np
import pytest
import torch

from losses import LOSSES, build_loss
from losses.hard_mining import HardMiningLoss, dilate, mine_positions
from losses.options import WithEmptyClips, WithoutPadding


@pytest.fixture
def golden(shared):
    return np.load(shared / "golden" / "losses" / "losses.npz")


@pytest.fixture
def tensors(golden):
    return torch.from_numpy(golden["logits"]), torch.from_numpy(golden["mask"])


@pytest.mark.parametrize("name", ["SoftIoU", "BCE"])
def test_deterministic_losses_equal_the_golden_values(golden, tensors, name):
    assert build_loss(name)(*tensors).item() == pytest.approx(float(golden[name]), abs=1e-6)


@pytest.mark.parametrize("name", ["HAM", "HPM"])
def test_mined_losses_have_the_golden_mean_over_400_draws(golden, tensors, name):
    draws = [build_loss(name)(*tensors).item() for _ in range(400)]
    error = np.hypot(np.std(draws, ddof=1), golden[f"{name}_std"]) / np.sqrt(400)
    assert abs(np.mean(draws) - golden[f"{name}_mean"]) < 3 * error
    assert np.std(draws) == pytest.approx(float(golden[f"{name}_std"]), rel=0.2)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_fall_as_the_logits_approach_the_mask(name):
    mask = torch.zeros(2, 3, 40, 40)
    mask[:, :, 20, 20] = 1
    far, near = -8 + 4 * mask, -8 + 16 * mask
    assert build_loss(name)(near, mask) < build_loss(name)(far, mask)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_scalars_with_gradients_even_for_half_logits(name):
    logits = torch.randn(1, 3, 16, 16, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    mask[..., 5, 5] = 1
    loss = build_loss(name)(logits, mask)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.dim() == 0
    assert torch.isfinite(logits.grad).all() and logits.grad.any()


def test_soft_iou_of_a_clip_without_target_is_1_without_gradient():
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    loss = build_loss("SoftIoU")(logits, torch.zeros(1, 3, 8, 8))
    loss.backward()
    assert loss.item() == 1 and not logits.grad.any()


def test_soft_iou_without_target_is_1_even_where_all_scores_underflow():
    logits = torch.full((1, 3, 8, 8), -200.0, requires_grad=True)
    loss = build_loss("SoftIoU")(logits, torch.zeros(1, 3, 8, 8))
    loss.backward()
    assert loss.item() == 1 and not logits.grad.any()


def test_soft_iou_is_averaged_over_clips_not_pixels():
    logits = torch.randn(2, 3, 8, 8)
    mask = (torch.rand(2, 3, 8, 8) > 0.9).float()
    loss = build_loss("SoftIoU")
    halves = [loss(logits[i : i + 1], mask[i : i + 1]).item() for i in range(2)]
    assert loss(logits, mask).item() == pytest.approx(np.mean(halves), abs=1e-6)


def test_dilation_is_5_by_5_in_space_and_leaves_time_alone():
    mask = torch.zeros(1, 3, 9, 9)
    mask[0, 1, 4, 0] = 1
    dilated = dilate(mask)
    assert dilated.sum() == 15 and dilated[0, 1, 2:7, :3].all()


def test_mining_draws_10_of_ranks_20_to_149_and_29_anywhere():
    difficulty = torch.arange(1000.0, 0, -1).view(1, 20, 50)  # position = rank
    among_hard = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        chosen = mine_positions(difficulty, torch.zeros_like(difficulty), generator).flatten()
        ranks = chosen.nonzero().flatten()
        assert 29 <= len(ranks) <= 39
        hard = (ranks >= 20) & (ranks < 150)
        assert hard.sum() >= 10
        among_hard.append(hard.sum().item())
    # 10, and 29 of 1000 that fall on the other 120 of these 130 ranks.
    assert np.mean(among_hard) == pytest.approx(10 + 29 * 120 / 1000, abs=0.5)


def test_mined_focal_loss_is_what_its_formula_says():
    logits, mask = torch.randn(1, 2, 30, 30), torch.zeros(1, 2, 30, 30)
    mask[0, :, 7, 8] = 1
    loss = HardMiningLoss(dilate_weight=False, generator=torch.Generator().manual_seed(1))
    same = HardMiningLoss(dilate_weight=False, generator=torch.Generator().manual_seed(1))
    weight = same.weight_map(logits, mask)
    p = torch.sigmoid(logits)
    focal = -0.8333 * (1 - p) ** 2 * mask * p.log() - 0.1667 * p**2 * (1 - mask) * (1 - p).log()
    assert loss(logits, mask).item() == pytest.approx((focal * weight).sum().item(), rel=1e-5)
    assert weight[mask > 0].all()


def test_the_modulating_factors_are_constants_for_the_gradient():
    logits = torch.zeros(1, 1, 6, 6, requires_grad=True)
    mask = torch.ones(1, 1, 6, 6)
    HardMiningLoss(dilate_weight=False)(logits, mask).backward()
    # d/dx of -a1 c log sigmoid(x) at 0 with c = (1 - 0.5)^2 held fixed.
    assert torch.allclose(logits.grad, torch.full_like(logits, -0.8333 * 0.25 * 0.5))


def test_an_unknown_loss_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=", ".join(LOSSES)):
        build_loss("none of these")


@pytest.mark.parametrize("name", ["SoftIoU", "BCE"])
@pytest.mark.parametrize("empty_weight", [0, 0.3])
def test_without_padding_is_the_loss_of_the_real_frames(name, empty_weight):
    loss = WithoutPadding(build_loss(name))
    if empty_weight:
        loss = WithEmptyClips(loss, empty_weight)
    logits = torch.randn(2, 6, 5, 5, requires_grad=True)
    mask = (torch.rand(2, 6, 5, 5) < 0.2).byte()
    mask[0] = 0
    mask[:, 4:] = 0
    valid = torch.ones_like(mask)
    valid[:, 4:] = 0
    value = loss(logits, mask, valid)
    value.backward()
    assert not logits.grad[:, 4:].any() and logits.grad[1, :4].any()
    expected = loss(logits[:, :4], mask[:, :4])
    torch.testing.assert_close(value, expected)


def test_without_padding_the_empty_clip_term_is_of_its_own_real_frames():
    logits, mask = torch.randn(2, 6, 5, 5), torch.zeros(2, 6, 5, 5)
    mask[1, 0, 2, 2] = 1
    valid = torch.ones_like(mask)
    valid[0, 4:] = 0  # clips padded by different lengths
    loss = WithoutPadding(build_loss("SoftIoU"))
    value = WithEmptyClips(loss, 0.5)(logits, mask, valid)
    found = torch.sigmoid(logits[0, :4]).sum()
    term = 0.5 * found / (found + 9 * 4) / 2
    torch.testing.assert_close(value, loss(logits, mask, valid) + term)


@pytest.mark.parametrize("name", ["SoftIoU", "BCE", "HAM", "HPM"])
def test_the_gradients_of_two_processes_have_the_mean_that_one_has(name):
    """Of so few positions all are mined, whatever is drawn."""
    logits, mask = torch.randn(4, 6, 4, 5, requires_grad=True), torch.zeros(4, 6, 4, 5)
    mask[1:3, :, 2, 3] = 1
    valid = torch.ones_like(mask)
    valid[:, 5:] = 0

    def gradient(processes):
        loss = build_loss(name, True, 0.7, processes)
        parts = zip(*(part.chunk(processes) for part in (logits, mask, valid)), strict=True)
        return torch.autograd.grad(sum(loss(*part) for part in parts) / processes, logits)[0]

    torch.testing.assert_close(gradient(2), gradient(1))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_nothing_but_padding_has_a_finite_loss_without_gradient(name):
    """As the last frames of clips that are padded at their end."""
    logits, mask = torch.randn(2, 1, 20, 20, requires_grad=True), torch.zeros(2, 1, 20, 20)
    loss = WithEmptyClips(WithoutPadding(build_loss(name)), 0.5)
    value = loss(logits, mask, torch.zeros_like(mask))
    value.backward()
    assert torch.isfinite(value) and not logits.grad.any()


@pytest.mark.parametrize("name", ["HAM", "HPM"])
def test_without_padding_mined_losses_have_no_gradient_there(name):
    logits = torch.randn(1, 6, 20, 20, requires_grad=True)
    mask = torch.zeros(1, 6, 20, 20)
    mask[:, :4, 9, 9] = 1
    valid = torch.ones_like(mask)
    valid[:, 4:] = 0
    WithoutPadding(build_loss(name))(logits, mask, valid).backward()
    assert not logits.grad[:, 4:].any() and logits.grad[:, :4].any()


def test_the_empty_clip_term_is_the_share_of_alarms_beside_a_target_that_is_not_there():
    loss = build_loss("SoftIoU")
    logits = torch.randn(3, 4, 5, 5, requires_grad=True)
    mask = torch.zeros(3, 4, 5, 5)
    mask[1, :, 2, 2] = 1
    value = WithEmptyClips(loss, 0.5)(logits, mask)
    sums = torch.sigmoid(logits).sum((1, 2, 3))
    shares = sums / (sums + 9 * 4)
    torch.testing.assert_close(value, loss(logits, mask) + 0.5 * (shares[0] + shares[2]) / 3)
    value.backward()
    assert logits.grad[0].all() and logits.grad[2].all()  # soft IoU alone has none there


def test_an_alarm_costs_about_as_much_in_an_empty_clip_as_beside_a_target():
    """One pixel of score 0.5 in a clip of the published size; the rest is sure background."""
    logits = torch.full((2, 40, 128, 128), -12.0)
    mask = torch.zeros(2, 40, 128, 128, dtype=torch.uint8)
    mask[0, :, 60:63, 60:63] = 1
    logits[mask > 0] = 12.0
    logits[:, 20, 10, 10] = 0
    logits.requires_grad_()
    WithEmptyClips(build_loss("SoftIoU"), 1.0)(logits, mask).backward()
    beside, alone = logits.grad[:, 20, 10, 10]
    assert beside > 0 and alone / beside == pytest.approx(1, abs=0.1)

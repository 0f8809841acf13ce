"""Gradient times input of one logit.

For the logit z of one pixel and the normalised clip x, the attribution of x_i is x_i dz/dx_i: to
first order, how much of z is due to that grey level. Summed over the pixels of a frame it says how
much that frame counts.
"""

import torch

from utils.scan import run_clip


def gradient_times_input(detector, clip, frame, row, column):
    """Attribution (T, H, W) float32 of the logit of one pixel of a clip (1, 1, T, H, W).

    Args:
        detector: can be differentiated, predicts all frames; in evaluation mode.
        clip: normalised.
        frame, row, column: of the pixel in the clip.
    """
    with torch.inference_mode(False), torch.enable_grad():
        clip = clip.clone().requires_grad_()
        logit = run_clip(detector, clip, detector)[0, frame, row, column]
        (gradient,) = torch.autograd.grad(logit, clip)
    return (gradient * clip.detach())[0, 0].float().cpu().numpy()


def is_differentiable(detector, device):
    """Whether a detector's logits have a gradient: those of a filter outside torch have none."""
    side = detector.smallest_side
    with torch.inference_mode(False), torch.enable_grad():
        clip = torch.zeros(1, 1, detector.seqlen, side, side, device=device, requires_grad=True)
        return run_clip(detector, clip, detector).requires_grad

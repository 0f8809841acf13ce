"""Steps through the epochs of a training: any detector, alone or in one of several processes."""

import copy
import math
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from utils.metrics import RunningIoU
from utils.process import seed_everything
from utils.scan import ClipNetwork
from utils.training_state import random_states, restore_random_states

STEP_PRECISIONS = ("fp32", "bf16")
CHECK_EVERY = 16  # steps between looks at the loss on a GPU
LOWEST_LEARNING_RATE = 1e-5  # that it decays to
HIGHEST_LEARNING_RATE = 10**6  # far below what float32 holds, far above what trains
OPTIMIZERS = {
    "Adam": lambda parameters, rate, decay, beta2=0.999: torch.optim.Adam(
        parameters, lr=rate, betas=(0.9, beta2), eps=1e-8, weight_decay=decay
    ),
    # As published: no weight decay.
    "SGD": lambda parameters, rate, *_: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
}


@dataclass(frozen=True)
class Schedule:
    """The learning rate of an epoch: `first` times `decay` every `step` epochs, with a floor.

    It does not decay below 1e-5, or, where it begins below that, not at all.

    Attributes:
        first: of the first epochs.
        decay: factor.
        step: epochs between decays.
    """

    first: float
    decay: float
    step: int

    def rate(self, epoch):
        """That of an epoch, 0-based."""
        floor = min(self.first, LOWEST_LEARNING_RATE)
        return max(self.first * self.decay ** (epoch // self.step), floor)

    def checked(self, epochs):
        """The schedule itself, for a training of so many epochs.

        Raises:
            ValueError: that has a rate which is too high.
        """
        try:
            last = self.rate(epochs - 1)
        except OverflowError:
            last = math.inf
        expected = f"expected at most {HIGHEST_LEARNING_RATE}"
        if self.first > HIGHEST_LEARNING_RATE:
            raise ValueError(f"--learning_rate {self.first:g}: {expected}")
        if last > HIGHEST_LEARNING_RATE:
            raise ValueError(
                f"--lr_decay {self.decay:g} every {self.step} epochs: the learning rate of epoch "
                f"{epochs} is {last:g}; {expected}"
            )
        return self


class MovingAverage:
    """Exponential moving average of a network's weights: a <- decay a + (1 - decay) w.

    Early in training the decay is (1 + n) / (10 + n) after n steps, if that is smaller. Buffers
    are copied.

    Args:
        model: the network.
        decay: below 1.
    """

    def __init__(self, model, decay):
        self.decay, self.steps = decay, 0
        self.weights = {key: value.clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model):
        """Takes in the weights after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        parameters = dict(model.named_parameters())
        for key, value in model.state_dict().items():
            if key in parameters:
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)

    def state(self):
        """What `restore` takes."""
        return {"weights": self.weights, "steps": self.steps}

    def restore(self, state):
        """Goes on from what `state` gave.

        Raises:
            ValueError: it is of another network.
        """
        shapes = {key: value.shape for key, value in state["weights"].items()}
        if shapes != {key: value.shape for key, value in self.weights.items()}:
            raise ValueError("the averaged weights are of another network")
        self.steps = state["steps"]
        for key, value in state["weights"].items():
            self.weights[key].copy_(value)


@dataclass(frozen=True)
class TrainerOptions:
    """How a `Trainer` steps.

    Attributes:
        seed: of what is drawn within an epoch.
        threshold: a pixel is positive, in IoU, if its score is above it.
        precision: of the network, one of `STEP_PRECISIONS`; losses are computed in float32.
        ema: decay of the averaged weights; 0: none are kept.
    """

    seed: int
    threshold: float = 0.5
    precision: str = "fp32"
    ema: float = 0.0


class EpochResult(NamedTuple):
    """Mean loss and IoU of an epoch's pixels, None if it was interrupted, and where it goes on."""

    loss: float | None
    iou: float | None
    position: dict


class Trainer:
    """Trains a detector epoch by epoch.

    Args:
        detector: a `models.detector.Detector` on the device to train on.
        network: what is run: the detector, or another form of it that shares its tensors.
        optimizer: of its parameters.
        criterion: callable(logits, mask) -> scalar; (logits, mask, valid) where batches have it.
            Gradients are averaged over the processes, so that it is one whose mean counts.
        batches: the clips: `len()`, `total` a step, and `of_epoch(epoch, first)`, a generator
            of (clip, mask) or (clip, mask, valid) from step `first` on: `data.batches.Batches`.
        options: `TrainerOptions`.
        group: the processes that train together.

    Attributes:
        average: `MovingAverage` of the weights, or None.
    """

    def __init__(self, detector, network, optimizer, criterion, batches, options, group):
        self.detector, self.optimizer, self.criterion = detector, optimizer, criterion
        self.batches, self.options, self.group = batches, options, group
        self.average = MovingAverage(detector, options.ema) if options.ema else None
        self.device = next(detector.parameters()).device
        # A step of DeepPro-Plus took 0.57 times as long with channels innermost (on an H200).
        self.innermost = self.device.type == "cuda" and detector.stages() is not None
        if self.innermost:
            detector.to(memory_format=torch.channels_last_3d)
        # A recurrence is unrolled within the module that exchanges gradients.
        self.network = ClipNetwork(network, detector)
        if group.size > 1:
            self.network = distributed_network(self.network, detector.learns_all)
        self.seconds = self.waited = self.began = 0.0
        self.steps = 0

    def train_epoch(self, epoch, position=None, stop=None):
        """One pass over the epoch's clips: an `EpochResult`.

        Nothing waits for the device between steps, save on the CPU and every CHECK_EVERY steps.

        Args:
            epoch: 0-based.
            position: where an interrupted epoch goes on, from a checkpoint, or None.
            stop: `utils.process.StopRequest` that interrupts the epoch after a step, or None.

        Raises:
            FloatingPointError: the loss is not finite.
            ValueError: the position is past the epoch's end.
        """
        self.detector.train()
        self.began = time.perf_counter()
        seed_everything(self.options.seed, epoch, self.group.rank)
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        iou = RunningIoU(self.options.threshold, self.device)
        first, steps = 0, len(self.batches)
        if position is not None:
            first = position["step"]
            if first > steps:
                raise ValueError(
                    f"the epoch was interrupted after step {first}, but has {steps} steps; "
                    "expected the data and the options as before"
                )
            if self.group.is_main:  # they are of all processes
                losses += position["loss_sum"]
                iou.counts += torch.tensor(position["iou_counts"], device=self.device)
            restore_random_states(position["random"])
        self.waited = 0.0
        reading = closing(self.batches.of_epoch(epoch, first))
        with reading as batches, self._progress(epoch, first, steps) as bar:
            for step in bar:
                asked = time.perf_counter()
                batch = next(batches)
                self.waited += time.perf_counter() - asked
                loss, logits, mask = self.step(batch)
                losses += loss.detach()
                iou.update(logits, mask)
                stopping = stop is not None and stop.signal is not None
                if self._looks_at(step, steps) or stopping:
                    self._check(losses, epoch, step)
                    bar.set_postfix(loss=f"{losses.item() / (step + 1):.4f}", refresh=False)
                if stopping:
                    return EpochResult(None, None, position_after(step, losses, iou))
        self.seconds, self.steps = time.perf_counter() - self.began, steps - first
        self.group.sum(losses)
        self.group.sum(iou.counts)
        end = position_after(steps - 1, losses, iou)
        return EpochResult(losses.item() / (steps * self.group.size), iou.iou(), end)

    def step(self, batch):
        """One optimiser step: (loss, logits (B, n, H, W), mask (B, n, H, W)), on the device."""
        clip, *truth = (part.to(self.device, non_blocking=True) for part in batch)
        if self.innermost:
            clip = clip.to(memory_format=torch.channels_last_3d)
        self.optimizer.zero_grad(set_to_none=True)
        lower = self.options.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            logits = self.network(clip)
        logits = logits.float()
        # Logits are of the clip's last frames.
        mask, *valid = (part[:, -logits.shape[1] :] for part in truth)
        loss = self.criterion(logits, mask, *valid)
        loss.backward()
        if self.device.type == "cpu" and not torch.isfinite(loss):
            return loss, logits.detach(), mask  # the weights stay those before this step
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.detector)
        return loss, logits.detach(), mask

    def trained(self):
        """The detector to validate: with the averaged weights where there are any."""
        if self.average is None:
            return self.detector
        averaged = copy.deepcopy(self.detector)
        averaged.load_state_dict(self.average.weights)
        return averaged

    def set_learning_rate(self, rate):
        """Sets that of all parameters."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate

    def share_statistics(self):
        """Gives all processes the main one's running statistics and averaged weights."""
        self.group.share_tensors(self.detector.buffers())
        if self.average is not None:
            self.group.share_tensors(self.average.weights.values())

    def speed(self, epochs_left):
        """Seconds of the epoch and its training, clips a second, share of waiting, seconds left."""
        whole = time.perf_counter() - self.began
        return {
            "seconds": round(whole, 3),
            "clips_per_second": round(self.steps * self.batches.total / self.seconds, 3),
            "waiting": round(self.waited / self.seconds, 4),
            "seconds_left": round(whole * epochs_left, 1),
        }

    def _progress(self, epoch, first, steps):
        return tqdm(
            range(first, steps),
            desc=f"Epoch {epoch + 1}",
            unit="batch",
            initial=first,
            total=steps,
            leave=False,
            disable=None if self.group.is_main else True,
        )

    def _looks_at(self, step, steps):
        return self.device.type == "cpu" or (step + 1) % CHECK_EVERY == 0 or step + 1 == steps

    def _check(self, losses, epoch, step):
        if not torch.isfinite(losses):
            raise FloatingPointError(
                f"epoch {epoch + 1}, step {step + 1}: the loss is {losses.item()}; expected a "
                "finite number. Lower --learning_rate, or check the images; the checkpoints "
                "of earlier epochs are unharmed"
            )


def distributed_network(network, learns_all=True):
    """The network whose gradients are averaged over processes; each has its own statistics.

    Without `learns_all` each step looks for the parameters that get no gradient.
    """
    # About memory layout, and an option whose new name older releases do not know.
    for words in ("Grad strides do not match", ".*broadcast_buffers"):
        warnings.filterwarnings("ignore", words)
    options = {"broadcast_buffers": False, "find_unused_parameters": not learns_all}
    return DistributedDataParallel(network, **options)


def position_after(step, losses, iou):
    """Where an epoch goes on after a step (0-based): for a checkpoint."""
    return {
        "step": step + 1,
        "loss_sum": losses.item(),
        "iou_counts": iou.counts.tolist(),
        "random": random_states(),
    }


def speed_line(row):
    """`Trainer.speed` for people."""
    left = timedelta(seconds=round(row["seconds_left"]))
    return (
        f"{row['seconds']:.1f} s, {row['clips_per_second']:.2f} clips/s, "
        f"{100 * row['waiting']:.1f}% of training waiting for data, about {left} left"
    )

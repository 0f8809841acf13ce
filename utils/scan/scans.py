"""The scans: windows of clips, clips of a last frame, and frame by frame."""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from utils.scan.clips import normalised, padded_size, run_clip, window_overlap
from utils.scan.queue import Queue

MOST_NARROW = 16  # frames 3 or 4 wide that are pushed at a time; more are a picture in colours
# Of a normalisation, in float32.
SMALLEST_STD, LARGEST_LEVEL = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class Block(NamedTuple):
    """Final scores (n, H, W) float32 of the frames from number `start` (0-based) on."""

    start: int
    scores: np.ndarray


def open_scan(detector, network, device="cpu", batch_size=1, stabiliser=None):
    """The scan that a detector needs: `Windows`, `LastFrame`, `Streamed` or `Recurrent`.

    Args:
        detector: makes the promises.
        network: what is called, the detector itself or a faster form of it; in evaluation mode.
        device: where the network is.
        batch_size: clips that are fed at once.
        stabiliser: `utils.scan.stabilise.Stabiliser` of the clips of a moving camera, or None.

    Raises:
        ValueError: a stabiliser for a detector that takes no clips.
    """
    if detector.recurrent:
        if stabiliser is not None:
            raise ValueError(
                f"--stabilise with {type(detector).__name__}: it takes frame by frame; expected a "
                "network that takes clips, whose frames can be laid on each other"
            )
        kind = Recurrent
    elif detector.predicts == "all":
        kind = Windows
    else:
        streamed = detector.streams and batch_size == 1 and stabiliser is None
        kind = Streamed if streamed else LastFrame
    scan = kind(detector, network, device, batch_size)
    scan.stabiliser = stabiliser
    return scan


class Scan:
    """What the scans share: the check of frames, and batches that run on the device.

    Attributes:
        seqlen: T, frames of a clip.
        delay: how many frames have to follow a frame, at most, before its scores are final.
        looks_back: whether frames before a sequence's first one are of use to it.
    """

    delay = 0
    looks_back = False
    stabiliser = None

    def __init__(self, detector, network, device="cpu", batch_size=1):
        self.detector, self.network = detector, network
        self.device, self.batch_size = torch.device(device), batch_size
        self.seqlen = detector.seqlen
        self.begin(0.0, 1.0)

    def begin(self, mean, std, earlier=None):
        """Starts a sequence whose frames are fed as (x - mean) / std; forgets the one before.

        Args:
            earlier: frames (n, H, W) that came before the first one, oldest first, for detectors of
                a last frame; None: the first frame stands for them.

        Raises:
            ValueError: they are not finite numbers, or std is not above 0, in float32.
        """
        if not (abs(mean) <= LARGEST_LEVEL and SMALLEST_STD <= std <= LARGEST_LEVEL):
            raise ValueError(
                f"mean {mean}, std {std}: expected finite numbers, std above 0, in float32"
            )
        self.mean, self.std = float(mean), float(std)
        self.count = 0  # frames pushed
        self.shape, self.earlier = None, earlier
        if earlier is not None and not len(earlier):
            self.earlier = None
        self.failed = False  # whether frames were taken that have no scores
        self._forget()

    @torch.inference_mode()
    def push(self, frames):
        """Takes the next frames, (n, H, W) or one (H, W), of any real number type.

        Returns:
            List of `Block`: what became final.

        Raises:
            ValueError: another shape than the sequence's, no numbers, or NaN or infinite ones: the
                sequence may go on without them. Or an error of the network ended the sequence.
        """
        self._check_not_failed()
        frames = self._checked(frames)
        self.count += len(frames)
        self.failed = True  # if the next line raises
        blocks = self._counted(self._take(frames))
        self.failed = False
        return blocks

    @torch.inference_mode()
    def finish(self):
        """Ends the sequence: the list of its last `Block`s.

        Raises:
            ValueError: an error of the network has ended it before.
        """
        self._check_not_failed()
        self.failed = True  # if the next line raises
        blocks = self._counted(self._end() if self.count else [])
        self.begin(self.mean, self.std)
        return blocks

    def _counted(self, blocks):
        if self.stabiliser is not None:
            for block in blocks:
                self.stabiliser.count(block.scores)
        return blocks

    def _check_not_failed(self):
        if self.failed:
            raise ValueError(
                f"frame {self.count}: an error ended the sequence before it; expected `begin` first"
            )

    def _checked(self, frames):
        if isinstance(frames, torch.Tensor):
            frames = frames.detach().cpu().numpy()
        frames = np.asarray(frames)
        if frames.ndim == 2:
            frames = frames[None]
        colour = frames.ndim == 3 and frames.shape[2] in (3, 4) and frames.shape[0] > MOST_NARROW
        if frames.ndim != 3 or (colour and self.shape is None):
            raise ValueError(
                f"frame {self.count}: an array of shape {frames.shape}; expected (height, width) "
                "or (n, height, width), one grey level a pixel; of frames 3 or 4 pixels wide at "
                f"most {MOST_NARROW} at a time"
            )
        if self.shape is not None and frames.shape[1:] != self.shape:
            (height, width), (rows, columns) = frames.shape[1:], self.shape
            raise ValueError(
                f"frame {self.count}: {height}x{width} pixels, but the sequence has "
                f"{rows}x{columns}; expected one size"
            )
        if frames.dtype.kind not in "buif":
            raise ValueError(
                f"frame {self.count} of type {frames.dtype}: expected real numbers, grey levels"
            )
        if frames.dtype.kind == "f":
            with np.errstate(over="ignore"):
                finite = np.isfinite(frames.astype(np.float32, copy=False)).all(axis=(1, 2))
            if not finite.all():
                odd = self.count + int(np.flatnonzero(~finite)[0])
                raise ValueError(
                    f"frame {odd}: a grey level is NaN or infinite in float32; expected numbers"
                )
        self.shape = frames.shape[1:]
        return np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))

    def _clip(self, frames):
        """(1, T, H, W) float32 of raw frames (at most T of them), zeros after the last one."""
        clip = normalised(frames, self.mean, self.std)
        missing = self.seqlen - len(clip)
        if missing > 0:
            clip = np.concatenate([clip, np.zeros((missing, *clip.shape[1:]), np.float32)])
        return torch.from_numpy(clip)[None]

    def _before(self, first):
        """The T - 1 frames before the first one, (1, H, W), of a sequence."""
        missing = self.seqlen - 1
        if self.earlier is None:
            return np.repeat(first, missing, axis=0)
        if np.shape(self.earlier)[1:] != self.shape:
            raise ValueError(
                f"frames before the first one of shape {np.shape(self.earlier)}: expected "
                f"(n, {self.shape[0]}, {self.shape[1]}), as the sequence's"
            )
        earlier = self._checked(self.earlier)[-missing:]
        repeated = earlier[:1].repeat(missing - len(earlier), axis=0)
        return np.concatenate([repeated, earlier])

    def _send(self, clips):
        """A CPU tensor on the device; a GPU copies it while the CPU goes on."""
        if self.device.type != "cuda":
            return clips.to(self.device)
        return clips.pin_memory().to(self.device, non_blocking=True)

    def _logits(self, clips):
        """Those of clips (B, 1, T, H, W), on the device."""

        def run(clips):
            return run_clip(self.network, clips, self.detector)

        clips = self._send(clips)
        return run(clips) if self.stabiliser is None else self.stabiliser.run(clips, run)

    def _scores(self, logits):
        return torch.sigmoid(logits.float()).cpu().numpy()

    def _forget(self):
        raise NotImplementedError

    def _take(self, frames):
        raise NotImplementedError

    def _end(self):
        raise NotImplementedError


class Windows(Scan):
    """Windows of T frames of a detector that predicts all of them: the published test protocol.

    Windows start every T - int(0.1 T) frames; the last is moved back to end at the last frame; a
    sequence shorter than T is padded with zeros after normalisation, at the end; frames seen twice
    take the larger score. See `window_starts`. The last window of a sequence ends wherever the
    sequence does, so a frame's scores are final once T frames have followed it.
    """

    def __init__(self, detector, network, device="cpu", batch_size=1):
        super().__init__(detector, network, device, batch_size)
        self.stride = self.seqlen - window_overlap(self.seqlen)
        # T frames, and those of the windows that wait for their batch.
        self.delay = self.seqlen + (batch_size - 1) * self.stride

    def _forget(self):
        self.frames = Queue()
        self.scores = Queue()  # of the frames that are not final yet
        self.cut = 0  # first frame of the next window that is not run
        self.waiting = []  # starts of windows that wait for their batch
        self.running = []  # (starts, scores) that the device is at work on

    def _take(self, frames):
        self.frames.append(frames)
        while self.cut + self.seqlen <= self.count:
            self.waiting.append(self.cut)
            self.cut += self.stride
            if len(self.waiting) == self.batch_size:
                self._run()
        # A GPU works on a batch while the CPU prepares the next one.
        self._collect(1 if self.device.type == "cuda" else 0)
        unread = [start for starts, _ in self.running for start in starts] + self.waiting
        final = min([self.count - self.seqlen, self.cut, *unread])
        blocks = self._give(final)
        self.frames.drop(min([max(self.count - self.seqlen, 0), *self.waiting]))
        return blocks

    def _end(self):
        last = max(self.count - self.seqlen, 0)
        if self.cut == 0 or self.cut - self.stride != last:
            self.waiting.append(last)
        while self.waiting:
            self._run()
        self._collect(0)
        return self._give(self.count)

    def _run(self):
        starts, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
        clips = [self._clip(self.frames.slice(at, at + self.seqlen)) for at in starts]
        logits = self._logits(torch.stack(clips))
        scores, ready = torch.sigmoid(logits.float()), None
        if scores.is_cuda:
            device, scores = scores, torch.empty_like(scores, device="cpu", pin_memory=True)
            scores.copy_(device, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self.running.append((starts, (scores, ready)))

    def _collect(self, leave):
        """Takes in the scores of the batches that are run, but for the last `leave`."""
        while len(self.running) > leave:
            starts, (scores, ready) = self.running.pop(0)
            if ready is not None:
                ready.synchronize()
            for start, window in zip(starts, scores.numpy(), strict=True):
                self._merge(start, window[: self.count - start])

    def _merge(self, start, scores):
        new = start + len(scores) - self.scores.stop
        if self.scores.length:
            seen = self.scores.slice(start, start + len(scores))
            np.maximum(seen, scores[: len(seen)], out=seen)
        if new > 0:
            self.scores.append(scores[-new:])

    def _give(self, stop):
        start = self.scores.first
        if stop <= start:
            return []
        block = Block(start, self.scores.slice(start, stop).copy())
        self.scores.drop(stop)
        return [block]


class LastFrame(Scan):
    """Clips of T frames of a detector that predicts the last one: one clip for every frame.

    Before the first frame of a sequence its first frame stands for those that are missing. Scores
    are final at once.
    """

    looks_back = True

    def __init__(self, detector, network, device="cpu", batch_size=1):
        super().__init__(detector, network, device, batch_size)
        self.delay = batch_size - 1

    def _forget(self):
        self.frames = Queue()
        self.given = 0  # frames whose scores are out

    def _take(self, frames):
        if self.frames.stop == 0 and self.seqlen > 1:  # they are numbered 0 ... T - 2
            self.frames.append(self._before(frames[:1]))
        self.frames.append(frames)
        return self._run(self.count - self.given - (self.count - self.given) % self.batch_size)

    def _end(self):
        return self._run(self.count - self.given)

    def _run(self, count):
        blocks = []
        for start in range(self.given, self.given + count, self.batch_size):
            stop = min(start + self.batch_size, self.given + count)
            clips = [
                self._clip(self.frames.slice(at, at + self.seqlen)) for at in range(start, stop)
            ]
            logits = self._logits(torch.stack(clips))
            blocks.append(Block(start, self._scores(logits)[:, -1]))
        self.given += count
        self.frames.drop(self.given)
        return blocks


class Recurrent(Scan):
    """A recurrent detector, frame by frame; the scan keeps its state. Scores are final at once."""

    def _forget(self):
        self.state = None

    def _take(self, frames):
        start, scores = self.count - len(frames), []
        height, width = self.shape
        for index in range(len(frames)):
            logits, self.state = self._step(frames[index : index + 1])
            scores.append(self._scores(logits)[0, :height, :width])
        return [Block(start, np.stack(scores))] if scores else []

    def _step(self, frame):
        """(logits, state) of the next frame, (1, H, W)."""
        return self.network(self._padded(frame)[:, 0], self.state)

    def _padded(self, frames):
        """Raw frames (n, H, W) as the detector wants them, (1, n, 1, H', W') on the device."""
        height, width = self.shape
        rows, columns = padded_size(self.detector, height, width)
        frames = torch.from_numpy(normalised(frames, self.mean, self.std))
        frames = self._send(frames[None, :, None])
        return functional.pad(frames, (0, columns - width, 0, rows - height))

    def _end(self):
        return []


class Streamed(Recurrent):
    """A detector of last frames that keeps what it made of the frames before, frame by frame.

    The scores are those of `LastFrame`, for the work of one frame instead of T.
    """

    looks_back = True

    def _step(self, frame):
        earlier = None
        if self.state is None and self.earlier is not None:
            earlier = self._padded(self._before(frame)).transpose(1, 2)  # (1, 1, T - 1, H', W')
        return self.network.stream(self._padded(frame)[:, 0], self.state, earlier)

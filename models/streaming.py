"""Detection in a live sequence: frames go in one by one, scores come out in blocks."""

from typing import NamedTuple

import torch


class Block(NamedTuple):
    """Scores (n, H, W) float32 of the frames from number `start` (0-based) on."""

    start: int
    scores: torch.Tensor


class StreamingDetector:
    """Runs a detector over a sequence that is still being recorded.

    Windows are those of the test protocol: of T frames, every T - int(0.1 T), frames seen twice
    take the larger score. Whenever a window is full, `push` returns its block; where two blocks
    hold the same frame, the later one is right. The last window of a finished sequence ends at its
    last frame, wherever that is, so `finish` may raise scores of up to T frames that are already
    out. With every block written over the ones before it, the result is that of the whole sequence
    stitched. Keeps T frames and T scores a pixel, however long the sequence.

    Args:
        detector: maps clips (1, 1, T, H, W) to logits (1, T, H, W), in evaluation mode.
        seqlen: T.
        mean, std: of the data, in grey levels.
        device: where the detector is.
    """

    def __init__(self, detector, seqlen, mean, std, device="cpu"):
        self.detector, self.seqlen = detector, seqlen
        self.mean, self.std, self.device = mean, std, device
        self.stride = seqlen - int(0.1 * seqlen)
        self._reset()

    def _reset(self):
        self.clip = None  # (T, H, W), normalised; frame i of the sequence at i modulo T
        self.count = 0  # frames seen
        self.block = None  # the last one returned

    def push(self, frame):
        """Takes the next frame, (H, W) of any number type; a `Block`, or None while none is due.

        Raises:
            ValueError: the frame is not (H, W) of the sequence's size.
        """
        frame = torch.as_tensor(frame)
        if frame.dim() != 2 or (self.clip is not None and frame.shape != self.clip.shape[1:]):
            size = "(height, width)" if self.clip is None else tuple(self.clip.shape[1:])
            raise ValueError(f"frame {self.count} of shape {tuple(frame.shape)}: expected {size}")
        if self.clip is None:
            self.clip = torch.zeros(self.seqlen, *frame.shape, device=self.device)
        normalised = (frame.to(self.device, torch.float32) - self.mean) / self.std
        self.clip[self.count % self.seqlen] = normalised
        self.count += 1
        start = self.count - self.seqlen
        return self._detect(start) if start >= 0 and start % self.stride == 0 else None

    def finish(self):
        """Ends the sequence: its last `Block`, or None if nothing is left to say. Starts afresh."""
        start = max(self.count - self.seqlen, 0)
        finished = self.count == 0 or (
            self.block is not None and self.block.start + len(self.block.scores) == self.count
        )
        block = None if finished else self._detect(start)
        self._reset()
        return block

    @torch.no_grad()
    def _detect(self, start):
        # Oldest frame first; a sequence of fewer than T frames ends in frames of zeros.
        clip = self.clip.roll(-(start % self.seqlen), 0)
        scores = torch.sigmoid(self.detector(clip[None, None]).float())[0]
        scores = scores[: self.count - start]
        if self.block is not None:
            seen = self.block.scores[start - self.block.start :]
            torch.maximum(scores[: len(seen)], seen, out=scores[: len(seen)])
        self.block = Block(start, scores)
        return self.block

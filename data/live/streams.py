"""Frames of a pipe or of a running video, one by one, as grey levels."""

import re
import sys
from pathlib import Path

import numpy as np

from data.formats.video import DECODER, VideoFrames

PIPE = "-"
CAMERAS = "v4l2"  # what the decoder calls the devices of Linux
# How streams begin that are no bare pixels.
SIGNATURES = {
    "y4m": rb"YUV4MPEG2 ",
    "PNG": rb"\x89PNG\r\n",
    "JPEG": rb"\xff\xd8\xff[\xdb\xe0\xe1\xee]",
    "AVI": rb"RIFF....AVI ",
    "MP4": rb"....ftyp",
    "Matroska": rb"\x1aE\xdf\xa3",
    "GIF": rb"GIF8[79]a",
    "PGM or PPM": rb"P[56]\s+\d+\s+\d+\s+\d+\s",
}
LEVELS = {8: np.dtype("u1"), 16: np.dtype("<u2")}  # by bits of a pixel


def is_live(place):
    """Whether a place gives frames as they come: "-", an address with ://, a device, a pipe."""
    return place == PIPE or "://" in str(place) or _is_device(place) or Path(place).is_fifo()


def _is_device(place):
    return Path(place).is_char_device()


class RawFrames:
    """Frames that come as bare pixels, row by row: one byte each, or two, the lower one first.

    Args:
        size: (height, width).
        bits: 8 or 16.
        remarks: `data.remarks.Remarks`.
        source: a binary file; None: standard input.
    """

    title = "standard input"

    def __init__(self, size, bits, remarks, source=None):
        self.size, self.dtype, self.remarks = size, LEVELS[bits], remarks
        self.source = sys.stdin.buffer if source is None else source

    def __iter__(self):
        whole = self.size[0] * self.size[1] * self.dtype.itemsize
        count = 0
        while len(data := self.source.read(whole)) == whole:
            if not count:
                self._check_begin(data)
            yield np.frombuffer(data, self.dtype).reshape(self.size)
            count += 1
        if not count:
            size, bits = "x".join(map(str, self.size)), 8 * self.dtype.itemsize
            raise ValueError(
                f"{self.title}: {len(data)} bytes, of which a frame takes {whole}; expected "
                f"frames of --size {size} at --bits {bits}"
            )
        if data:
            self.remarks.make(
                "cut",
                f"{self.title}: {len(data)} bytes after frame {count}, of which one takes {whole}, "
                "are left out; if it was not cut short, --size or --bits is another",
            )

    def _check_begin(self, data):
        """Refuses what begins as a file does, whose pixels are somewhere behind."""
        for form, begin in SIGNATURES.items():
            if re.match(begin, data[:64], re.DOTALL):
                raise ValueError(
                    f"{self.title}: a stream of the form {form}; expected bare pixels, as of "
                    "`ffmpeg -f rawvideo -pix_fmt gray` (gray16le with --bits 16)"
                )


class RunningVideo:
    """Frames of a device or a stream that the decoder of videos can open.

    Args:
        place: its address or path.
        remarks: `data.remarks.Remarks`.
    """

    def __init__(self, place, remarks):
        self.title = str(place)
        self.video = VideoFrames(place, remarks, form=CAMERAS if _is_device(place) else None)

    def __iter__(self):
        return self.video.stream()


def open_stream(place, size, bits, remarks):
    """Frames of a live place: an iterable of (H, W) uint8 or uint16 with a `title`.

    Raises:
        ValueError: a pipe without a size, or a size where the stream has its own.
    """
    if place == PIPE:
        if size is None:
            raise ValueError(
                "--datapath - without --size; expected --size HEIGHTxWIDTH, and --bits 16 for "
                f"pixels of two bytes; other streams than bare pixels need `{DECODER}`"
            )
        return RawFrames(size, bits, remarks)
    if size is not None:
        raise ValueError(f"--size with {place}, which has its own; expected it with --datapath -")
    return RunningVideo(place, remarks)

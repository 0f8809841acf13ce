"""Videos written frame by frame, where there is an encoder."""

import os
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from data.formats.video import DECODER

CODECS = ("libx264", "mpeg4")  # the first one that is there
QUALITY = "20"  # of x264: lower is better
BITS_PER_PIXEL = 2  # of the other, which takes a rate


def check_encoder():
    """Makes sure that videos can be written.

    Raises:
        ValueError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401  not required: only videos need it
    except ImportError as error:
        raise ValueError(
            f"videos cannot be written: there is no encoder; install one with `{DECODER}`"
        ) from error


class VideoFile:
    """An mp4 file: one frame is in memory, however many there are.

    It appears under its name only when it is whole; until then it grows in a nameless file beside.

    Args:
        path: of the file.
        rate: frames a second.

    Raises:
        ValueError: there is no encoder.
        OSError: it cannot be written.
    """

    def __init__(self, path, rate):
        check_encoder()
        self.path, self.rate = Path(path), Fraction(rate).limit_denominator(1000)
        self.video = self.stream = None
        try:
            self.file = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115
        except OSError as error:
            raise OSError(f"{path}: cannot be written ({error.strerror})") from error

    def add(self, picture):
        """Adds a frame, (H, W, 3) uint8 in red, green, blue; all are of one size."""
        import av

        picture = np.asarray(picture)
        even = [(0, side % 2) for side in picture.shape[:2]]  # colours are of 2 x 2 pixels
        picture = np.pad(picture, (*even, (0, 0)), mode="edge")
        if self.video is None:
            self.video = av.open(self.file, "w", format="mp4")
            self.stream = _add_stream(self.video, picture.shape[:2], self.rate)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        self._mux(self.stream.encode(frame))

    def _mux(self, packets):
        try:
            self.video.mux(packets)
        except OSError as error:  # PyAV's own errors are of this kind
            raise OSError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def close(self):
        """Ends the file and puts it in its place; without a frame there is none."""
        if self.video is None:
            return
        self._mux(self.stream.encode(None))
        self.video.close()
        self.file.seek(0)
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with aside.open("wb") as whole:
                shutil.copyfileobj(self.file, whole)
            aside.replace(self.path)
        finally:
            aside.unlink(missing_ok=True)
            self.file.close()


def _add_stream(video, size, rate):
    """A stream of frames (height, width), both even, for the first codec that is there."""
    import av

    codec = next(name for name in CODECS if name in av.codecs_available)
    stream = video.add_stream(codec, rate=rate)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    if codec == CODECS[0]:
        stream.options = {"crf": QUALITY, "preset": "veryfast", "threads": "1"}
    else:
        stream.bit_rate = int(BITS_PER_PIXEL * size[0] * size[1] * rate)
    return stream

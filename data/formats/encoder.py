"""Videos written frame by frame, where there is an encoder."""

from fractions import Fraction

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
    """An mp4 video: one frame is in memory, however many there are.

    Args:
        file: binary, open for writing, in which places can be sought; it stays open.
        rate: frames a second.

    Raises:
        ValueError: there is no encoder.
    """

    def __init__(self, file, rate):
        check_encoder()
        self.file = file
        self.rate = Fraction(rate).limit_denominator(1001)  # 30000/1001 is a usual one
        self.video = self.stream = None

    def add(self, picture):
        """Adds a frame, (H, W, 3) uint8 in red, green, blue; all are of one size.

        Raises:
            OSError: it cannot be written.
        """
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
            raise OSError(f"a video could not be written ({error.strerror or error})") from error

    def close(self):
        """Ends the video, of which at least one frame was added."""
        self._mux(self.stream.encode(None))
        self.video.close()


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

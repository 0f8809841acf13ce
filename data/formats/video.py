"""Frames of a video, decoded forward, block by block, at the depth that the video has."""

from threading import Lock

import numpy as np

from data.formats.levels import check_size, is_false_colour

VIDEO_SUFFIXES = {
    *(".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"),
    *(".ts", ".mts", ".m2ts", ".flv", ".3gp", ".ogv", ".y4m"),
}
DECODER = "pip install av"
MICROSECONDS = 1_000_000  # a second, in a container's length
MOST_TIMES = 1_000_000  # of frames that are looked at for gaps
RARE = 0.05  # share of steps in time, up to which longer ones are gaps
SOUND_SECONDS = 1.0  # that sound may go on after the last picture
FULL_RANGE = 2  # how decoders number that brightness takes all levels; 0: the file does not say
LEAST, MOST = 16, 235  # of 256 levels, black and white where it does not take all
MANY, FEW_FAR = 0.1, 0.01  # shares of pixels beyond these, and far beyond, that no coding makes
FAR = 8  # levels


class VideoFrames:
    """Frames of a video as grey levels by range: 8-bit, or 16-bit where it has more.

    Of red, green and blue the first is read, otherwise the brightness. Its levels 16 to 235 become
    0 to 255, unless the file says that it takes all 256, or its first frame shows it.

    A range that begins before the last one ended is decoded from the video's start.

    Args:
        path: of the video.
        remarks: `data.remarks.Remarks`.
        other: `VideoFrames` of the same video; what one finds out about its length both know.
        form: the decoder's name of a kind of device; None: it looks itself.

    Raises:
        ValueError: by any use: there is no decoder, or it cannot read the file.
    """

    paths = None  # its frames have no files of their own

    def __init__(self, path, remarks, other=None, form=None):
        self.path, self.remarks, self.form = path, remarks, form
        self._frames, self._next = None, 0
        self._full_range = False  # though the file does not say so
        self._found = {} if other is None else other._found  # the length, once it is known
        self._lock = Lock()

    def __len__(self):
        if "length" not in self._found:
            self._found["length"] = sum(1 for _ in self._decode())
        return self._found["length"]

    @property
    def frame_rate(self):
        """Frames a second, as its header says; None before it was read, or if it does not say."""
        return self._found.get("rate")

    @property
    def is_counted(self):
        """Whether its length is known, for which it must be decoded."""
        return "length" in self._found

    def place(self, index):
        """Which frame it is, for messages."""
        return f"{self.path}, frame {index + 1}"

    def fresh(self):
        """The same frames for another reader, with its own place in the file."""
        return VideoFrames(self.path, self.remarks, self)

    def close(self):
        """Closes the file, which another use opens again."""
        with self._lock:
            self._frames = None

    def read(self, start, stop):
        """Frames [start, stop), as far as there are any: (n, H, W) uint8 or uint16.

        Raises:
            ValueError: see the class.
        """
        taken = []
        with self._lock:
            if self._frames is None or start < self._next:
                self._frames, self._next = self._decode(), 0
            while self._next < stop:
                frame = next(self._frames, None)
                if frame is None:
                    self._found["length"] = self._next
                    break
                if self._next >= start:
                    taken.append(self._levels(frame, self._next))
                    size = taken[-1].shape
                    check_size(size, self.place(self._next), taken[0].shape, self.place(start))
                self._next += 1
        return np.stack(taken) if taken else np.empty((0, 0, 0), np.uint8)

    def stream(self):
        """Yields the frames from the first one on, (H, W), as they come."""
        for index, frame in enumerate(self._decode()):
            yield self._levels(frame, index)

    def _levels(self, frame, index):
        """Grey levels (H, W) of a frame, uint8, or uint16 where it has more than 8 bits."""
        deep = frame.format.components[0].bits > 8
        # In one thread: several convert the same deep frame to other levels now and then (av 18.1).
        if _has_colours(frame):
            return frame.to_ndarray(format="rgb48le" if deep else "rgb24", threads=1)[..., 0]
        if not is_limited(frame):
            return frame.to_ndarray(format="gray16le" if deep else "gray", threads=1)
        if self._full_range:
            return all_levels(frame, deep)
        pixels = frame.to_ndarray(format="gray16le" if deep else "gray", threads=1)
        if "range" not in self.remarks.made and _may_be_cut(pixels):
            cut, shows = share_beyond(frame, deep)
            if shows:
                self.remarks.make(
                    "range",
                    f"{self.place(index)}: {cut:.0%} of the pixels lie beyond the levels {LEAST} "
                    f"to {MOST} that such a video has, and are cut off; if it has all, mark it: "
                    "ffmpeg -i FILE -c copy -bsf:v h264_metadata=video_full_range_flag=1 OUT",
                )
        return pixels

    def _decode(self):
        try:
            import av  # not required: only videos need it
        except ImportError as error:
            raise ValueError(
                f"{self.path}: no decoder for videos is installed; install one with `{DECODER}`, "
                "or give the frames as images"
            ) from error
        count, unshown, promise, times = 0, 0, None, []
        try:
            with av.open(str(self.path), format=self.form) as video:
                if not video.streams.video:
                    raise ValueError("there is sound in it, or other data, but no picture")
                rate = video.streams.video[0].average_rate
                self._found["rate"] = float(rate) if rate else None
                for packet, frame in decoded(video):
                    if frame is None:
                        # Before a cut that was made without encoding anew, for example.
                        unshown += getattr(packet, "is_discard", False)
                        continue
                    if count == 0:
                        self._look_at(frame)
                        self._look_at_range(frame)
                        self._look_at_streams(video.streams.video)
                    if frame.is_corrupt:
                        self.remarks.make(
                            "damaged video",
                            f"{self.place(count)}: damaged, and shows what the decoder made of it; "
                            "others may be, too",
                        )
                    count += 1
                    last = frame.time
                    if len(times) < MOST_TIMES:  # a stream may have no end
                        times.append(last)
                    yield frame
                if count:
                    promise = broken_promise(video, count, unshown, last)
        except Exception as error:  # a decoder may meet damage with any
            raise ValueError(
                f"{self.path}: cannot be read as a video after {count} frames ({error})"
            ) from error
        if not count:
            raise ValueError(f"{self.path}: a video without frames")
        if promise is not None:
            self.remarks.make("short video", f"{self.path}: {promise}")
        odd = uneven_times(times)
        if odd is not None:
            self.remarks.make("uneven video", f"{self.path}: {odd}")

    def _look_at_range(self, frame):
        """Whether a video that does not say so takes all levels, from its first frame."""
        if frame.color_range or not is_limited(frame):
            return
        deep = frame.format.components[0].bits > 8
        _, self._full_range = share_beyond(frame, deep)
        if self._full_range:
            self.remarks.make(
                "range",
                f"{self.path}: its levels go beyond {LEAST} to {MOST}, though the file does not "
                "say that all 256 are used: read as if it did",
            )

    def _look_at_streams(self, streams):
        """Remarks on pictures that are not read; a cover, which has one, is none of them."""
        others = [stream for stream in streams[1:] if stream.frames != 1]
        if others:
            self.remarks.make(
                "streams",
                f"{self.path}: has {1 + len(others)} streams of pictures; the first is read",
            )

    def _look_at(self, frame):
        """Remarks on a video that is not what it seems, from its first frame.

        Raises:
            ValueError: its pixels are no grey levels.
        """
        bits = frame.format.components[0].bits
        if bits < 8 and not frame.format.has_palette:
            raise ValueError(
                f"pixels of kind {frame.format.name}; 16-bit grey levels in an AVI are mistaken "
                "for them: save them as FFV1 or as images"
            )
        if frame.rotation:
            self.remarks.make(
                "rotation", f"{self.path}: is to be shown turned, and is read as it is stored"
            )
        if is_false_colour(frame.to_ndarray(format="rgb24", threads=1)):
            what = "the first channel" if _has_colours(frame) else "the brightness"
            self.remarks.make(
                "colours",
                f"{self.path}: a video in colours, of which {what} is read; the colours of a "
                "palette are no grey levels",
            )


def decoded(video):
    """Yields (a packet, None) for each of an open video's, then (the same, frame) of each frame."""
    for packet in video.demux(video=0):
        yield packet, None
        for frame in packet.decode():
            yield packet, frame


def broken_promise(video, count, unshown, time):
    """How a video is shorter than its header says, in words, or None.

    Where the header does not count frames, as in Matroska, by its length in time; sound may go on
    longer.

    Args:
        video: the open container.
        count: frames that were read.
        unshown: that the file has but says are not to be shown.
        time: seconds at which the last one begins, or None.
    """
    stream = video.streams.video[0]
    if stream.frames:
        missing = count + unshown < stream.frames
        if missing and stream.duration and stream.average_rate:
            # A file that was cut may keep frames that it does not count into its length.
            whole = stream.duration * stream.time_base * stream.average_rate
            missing = count + 0.5 < whole
        return f"{count} frames, but its header promises {stream.frames}" if missing else None
    if time is None or not video.duration or not stream.average_rate:
        return None
    whole, each = video.duration / MICROSECONDS, float(1 / stream.average_rate)
    slack = max(2.5 * each, 0.02 * whole, SOUND_SECONDS if video.streams.audio else 0.0)
    seen = time + each
    if whole - seen <= slack:
        return None
    return f"{count} frames of {seen:.2f} seconds, but its header promises {whole:.2f}"


def uneven_times(times):
    """How the frames of a video do not come at one rate, in words, or None.

    Args:
        times: seconds at which each begins; None: not known.
    """
    if None in times or len(times) < 3:
        return None
    steps = np.diff(times)
    usual = float(np.percentile(steps, 25))
    jumps = np.flatnonzero(steps > 1.75 * usual)
    if usual <= 0 or not len(jumps):
        return None
    if len(jumps) > RARE * len(steps):
        return (
            f"frames come after {steps.min():.3f} to {steps.max():.3f} seconds, not at one rate; "
            "speeds and labels by time are off"
        )
    lost = round(float((steps[jumps] / usual - 1).sum()))
    return (
        f"about {lost} frames are missing, the first after frame {jumps[0] + 1}; labels that count "
        "them belong to other frames"
    )


def _has_colours(frame):
    """Whether pixels are red, green and blue, rather than grey or brightness and colour."""
    return frame.format.is_rgb or frame.format.has_palette


def is_limited(frame):
    """Whether black and white of a frame's brightness are not the least and the most level."""
    kind = frame.format.name
    bright = len(frame.format.components) > 1 and not _has_colours(frame)
    alone = kind.startswith(("gray", "ya"))  # grey, with transparency or without
    return bright and not alone and not kind.startswith("yuvj") and frame.color_range != FULL_RANGE


def all_levels(frame, deep):
    """The brightness (H, W) as it is stored, uint8, or uint16 where it is `deep`."""
    same = {"src_color_range": FULL_RANGE, "dst_color_range": FULL_RANGE}
    kind = "gray16le" if deep else "gray"
    return frame.reformat(format=kind, threads=1, **same).to_ndarray()


def _may_be_cut(pixels):
    """Whether enough pixels lie at the ends of their range for a look at what was cut off."""
    highest = np.iinfo(pixels.dtype).max
    return ((pixels == 0) | (pixels >= highest - highest // 256)).mean() > FEW_FAR


def share_beyond(frame, deep):
    """(share of pixels beyond black and white, whether it shows that these are other levels).

    Of a frame that `is_limited`. Coding and noise put some a little beyond.
    """
    low, high = (256, 257) if deep else (1, 1)  # of more bits some scale by one, some by the other
    levels = all_levels(frame, deep)
    near, far = (
        float(((levels < (LEAST - more) * low) | (levels > (MOST + more) * high)).mean())
        for more in (0, FAR)
    )
    return near, near > MANY or far > FEW_FAR

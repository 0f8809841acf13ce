"""What grey levels of all formats come as, and what those of one sequence have in common.

What a file holds decides the type, never what its levels happen to be: uint8, uint16, or float32
for all other kinds.
"""

import numpy as np

NO_DATA = 1e30  # levels beyond it are none
NO_DATA_LEVELS = (-9999.0, -32768.0, -32767.0, -99999.0)  # that often mark pixels without data
FALSE_COLOUR = 0.02  # of the brightest level: mean difference of channels that are no longer grey
TOLD_APART = 1e-3  # of the levels' standard deviation: what rounding to float32 may change


def grey_levels(pixels):
    """Pixels of any real type as uint8, uint16 (native byte order) or float32.

    Raises:
        ValueError: float32 cannot hold the levels, or not tell them apart.
    """
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)  # a view may hold 255 for True
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return pixels.astype(np.uint16)
    with np.errstate(over="ignore"):
        levels = pixels.astype(np.float32)
    if pixels.dtype.itemsize > 2 and pixels.dtype.newbyteorder("=") != np.float32:
        _check_kept(pixels, levels)
    return levels


def _check_kept(pixels, levels):
    finite = np.isfinite(pixels)
    if not np.isfinite(levels[finite]).all():
        raise ValueError(
            f"a grey level of {np.abs(pixels[finite]).max():g}; expected levels below 3.4e38"
        )
    exact = pixels[finite].astype(np.float64)
    if not exact.size:
        return
    lost = np.abs(exact - levels[finite]).max()
    spread, largest = exact.std(), np.abs(exact).max()
    if lost > TOLD_APART * spread and spread > 1e-12 * largest:
        raise ValueError(
            f"grey levels of type {pixels.dtype} around {exact.mean():g} that float32 cannot tell "
            "apart; subtract their mean"
        )


def is_false_colour(picture):
    """Whether the channels of a picture (H, W, C) are those of colours rather than of grey."""
    if picture.shape[2] < 3:
        return False
    some = picture[::4, ::4, :3].astype(np.float32)
    return np.abs(some[..., 1:] - some[..., :1]).mean() > FALSE_COLOUR * max(some.max(), 1)


def check_colours(picture, path, remarks):
    """Remarks on a picture (H, W, C) whose colours are more than grey."""
    if is_false_colour(picture):
        remarks.make(
            "colours",
            f"{path}: a picture in colours, of which the first channel is read; the colours of a "
            "palette are no grey levels",
        )


def check_labels(labels, place, remarks):
    """Remarks on what a mask holds (H, W), where it looks like something else.

    Raises:
        ValueError: it holds what is neither background, 0, nor above it.
    """
    if labels.dtype.kind in "if" and not (labels >= 0).all():
        odd = labels[~(labels >= 0)]
        raise ValueError(
            f"{place}: a mask with {odd.size} pixels of {odd.flat[0]:g}; expected 0 where there is "
            "no target and more where there is one"
        )
    rows = (labels.view(bool) if labels.dtype == np.uint8 else labels > 0).any(axis=1)
    if not rows.any():
        return
    first, last = np.flatnonzero(rows)[[0, -1]]
    targets = labels[first : last + 1]
    targets = targets[targets > 0]
    if targets.size > labels.size / 2:
        remarks.make(
            "full mask",
            f"{place}: {100 * targets.size // labels.size} % of the mask is above 0, which counts "
            "as target; expected targets above 0 on a background of 0",
        )
    lowest, highest = targets.min(), targets.max()
    if lowest != highest:
        remarks.make(
            "mask levels",
            f"{place}: a mask of more than two levels (0, {lowest:g} to {highest:g}); every pixel "
            "above 0 counts as target",
        )


def check_numbers(frame, name, place, remarks=None):
    """Refuses a frame (H, W) with levels that are no numbers, or stand for the lack of one.

    Args:
        frame: as `grey_levels` gives it.
        name, place: of its sequence or file, and which frame of it.
        remarks: `data.remarks.Remarks` that hear of levels that may stand for no data.
    """
    if frame.dtype != np.float32:
        return
    lowest, highest = float(frame.min()), float(frame.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        count = frame.size - np.count_nonzero(np.isfinite(frame))
        raise ValueError(
            f"{name}: a grey level is NaN or infinite, in {count} pixels of {place}; expected "
            "numbers"
        )
    for level in (lowest, highest):
        if abs(level) > NO_DATA:
            raise ValueError(
                f"{name}: a grey level of {level:g}, which mostly stands for no data, in "
                f"{np.count_nonzero(frame == level)} pixels of {place}; expected grey levels"
            )
    if lowest in NO_DATA_LEVELS and remarks is not None:
        remarks.make(
            "no data",
            f"{name}: a grey level of {lowest:g}, which may stand for no data, in "
            f"{np.count_nonzero(frame == lowest)} pixels of {place}; it is read as a grey level",
        )


def check_size(size, place, expected, expected_place):
    """Refuses a (height, width) that is not the expected one."""
    if tuple(size) != tuple(expected):
        (height, width), (rows, columns) = size, expected
        raise ValueError(
            f"{place}: {height}x{width} pixels, but {expected_place} has {rows}x{columns}; "
            "expected one size in a sequence, for frames and masks"
        )


def check_type(dtype, place, expected, expected_place):
    """Refuses frames whose grey levels have another depth than those of the same sequence."""
    if dtype != expected:
        raise ValueError(
            f"{place}: grey levels of type {dtype}, but {expected_place} has {expected}; "
            "expected one depth in a sequence"
        )

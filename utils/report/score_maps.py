"""Pictures of scores."""

import numpy as np
from PIL import Image

from utils.run_dir import make_folder


def write_score_maps(folder, scores, first_frame=1):
    """Writes scores (N, H, W) in [0, 1] as 8-bit grey images `<frame>.png`, white for score 1.

    Args:
        folder: made if missing.
        scores: of one sequence.
        first_frame: number of the first frame.
    """
    make_folder(folder)
    levels = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
    for number, level in enumerate(levels, start=first_frame):
        Image.fromarray(level).save(folder / f"{number:05d}.png", compress_level=1)

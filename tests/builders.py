"""Builds small data sets on disk."""

import numpy as np
from PIL import Image

NUDT_NORMALISATION = (105.4025, 26.6452)


def write_image(path, pixels):
    """Writes an array as an image, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def random_sequence(rng, frames, height, width):
    """Frames (N, H, W) uint8 and masks with one pixel a frame, uint8 in {0, 255}."""
    images = rng.integers(60, 150, (frames, height, width), dtype=np.uint8)
    masks = np.zeros_like(images)
    masks[np.arange(frames), np.arange(frames) % height, np.arange(frames) % width] = 255
    return images, masks


def write_nudt_sequence(root, name, images, masks, centroids=True):
    """Writes one sequence in NUDT-MIRSDT's layout."""
    for number, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        write_image(root / name / "images" / f"{number:05d}.png", image)
        write_image(root / name / "masks" / f"{number:05d}.png", mask)
        if centroids:
            write_image(root / name / "masks_centroid" / f"{number:05d}.png", mask)


def write_list(path, names, newline="\n"):
    """Writes a list file with one `<sequence>/images/00001.png` a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = newline.join(f"{name}/images/00001.png" for name in names) + newline
    path.write_bytes(text.encode())

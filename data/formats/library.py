"""What the image library reads: most images, and GIFs page by page."""

import numpy as np
from PIL import Image

KEPT = ("1", "L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
CONVERTED_TO = {"CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB", "La": "LA", "RGBa": "RGBA"}


class LibraryPages:
    """The pages of an image file, one for most.

    Attributes:
        count: of the pages.

    Args:
        file: path of the file, or it itself, open.
    """

    def __init__(self, file):
        self.image = Image.open(file)
        self.count = getattr(self.image, "n_frames", 1)

    def picture(self, index):
        """Page `index`: (H, W), or (H, W, C) with C = 2 (grey, alpha), 3 (colour), 4 (and alpha).

        Colours of a palette, not their indices.
        """
        if self.count > 1:
            self.image.seek(index)
        return picture_of(self.image)

    def close(self):
        self.image.close()


def picture_of(image):
    """The pixels of an open image; see `LibraryPages.picture`.

    Raises:
        ValueError: they are of a kind that has no grey levels.
    """
    image.load()
    if image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    elif image.mode in CONVERTED_TO:
        image = image.convert(CONVERTED_TO[image.mode])
    elif image.mode not in KEPT:
        raise ValueError(f"pixels of the kind {image.mode}; expected grey levels or colours")
    return np.asarray(image)

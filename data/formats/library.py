"""What the image library reads: most images, and GIFs page by page."""

import numpy as np
from PIL import Image

KEPT = ("1", "L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION = 274  # the tag, of EXIF as of TIFF
# What undoes each orientation: transpose, then the axes to flip.
_TURNS = {
    1: (False, ()),
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}
CONVERTED_TO = {"CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB", "La": "LA", "RGBa": "RGBA"}


class LibraryPages:
    """The pages of an image file, one for most.

    Attributes:
        count: of the pages.
        orientation: by EXIF, which picture viewers follow, and `picture`, too.

    Args:
        file: path of the file, or it itself, open.
    """

    def __init__(self, file):
        self.image = Image.open(file)
        self.count = getattr(self.image, "n_frames", 1)
        self.orientation = self.image.getexif().get(ORIENTATION, 1)

    def picture(self, index):
        """Page `index`: (H, W), or (H, W, C) with C = 2 (grey, alpha), 3 (colour), 4 (and alpha).

        Colours of a palette, not their indices.
        """
        if self.count > 1:
            self.image.seek(index)
        return turned(self.orientation, picture_of(self.image))

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


def turned(orientation, pixels):
    """Pixels (H, W) or (H, W, C) with the top of the picture in the first row."""
    transposed, flipped = _TURNS.get(orientation, (False, ()))
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    return np.flip(pixels, flipped) if flipped else pixels


def orientation_of(exif):
    """That in the bytes of EXIF data; 1, as it is, where these do not say."""
    found = Image.Exif()
    try:
        found.load(exif)
    except Exception:  # damage of any kind
        return 1
    return found.get(ORIENTATION, 1)

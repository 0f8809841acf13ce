"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_whole(path, write):
    """Lets `write(file)` fill a file beside `path`, opened for bytes, then renames it.

    Raises:
        OSError: it could not be written; what was at `path` is unharmed.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(f"{path}: could not be written ({error})") from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path, text):
    """Writes a text file in UTF-8, whole or not at all; see `write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))

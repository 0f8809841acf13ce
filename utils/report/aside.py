"""A file that grows while a test runs: there whole at its end, or as it was before."""

import shutil
import tempfile
from pathlib import Path

from utils.files import write_whole


class Aside:
    """Bytes for a file, kept in a nameless one beside it: a test that fails leaves no trace.

    Args:
        path: of the file. Its folder is written to at once, so that a place that cannot be written
            to shows before anything is computed.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            self.file = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115
        except OSError as error:
            raise OSError(f"{path}: cannot be written ({error.strerror})") from error

    def write(self, data):
        """Adds bytes."""
        try:
            self.file.write(data)
        except OSError as error:
            raise OSError(f"{self.path}: could not be written ({error.strerror})") from error

    def size(self):
        """Bytes so far."""
        return self.file.tell()

    def read(self, start, stop):
        """The bytes [start, stop) of what was written."""
        self.file.seek(start)
        data = self.file.read(stop - start)
        self.file.seek(0, 2)
        return data

    def cut(self, size):
        """Forgets what was written beyond so many bytes."""
        self.file.seek(size)
        self.file.truncate()

    def keep(self):
        """Puts what was written at `path`, in place of what was there; ends the use of this."""
        self.file.seek(0)
        write_whole(self.path, lambda file: shutil.copyfileobj(self.file, file))
        self.file.close()

    def drop(self):
        """Forgets what was written; ends the use of this."""
        self.file.close()

"""What the disk tier asks of the kernel, in one place: tests put a disk that fails in its stead."""

import os
from collections.abc import Sequence


class Calls:
    """Files that work as long as the disk does. All raise OSError."""

    def preadv(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        return os.preadv(file, buffers, offset)

    def pwritev(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        return os.pwritev(file, buffers, offset)

    def append(self, file: int, data: bytes, offset: int) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            count = os.pwrite(file, view, offset)
            view, offset = view[count:], offset + count

    def fdatasync(self, file: int) -> None:
        os.fdatasync(file)

    def allocate(self, file: int, num_bytes: int) -> None:
        """Take the file's room now."""
        os.posix_fallocate(file, 0, num_bytes)

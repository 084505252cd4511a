"""Files are loaded once for each change, whoever asks; what cannot be used changes nothing."""

import errno
import os
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.common.fresh import Fresh


class Number:
    """A file with a number, and how often it was read."""

    def __init__(self, path: Path) -> None:
        self.path, self.num_loads = path, 0
        self.error: OSError | None = None
        self.after_reading: Callable[[], None] | None = None
        self.path.write_text("1")
        self.fresh = Fresh((str(path),), self._load)

    def _load(self) -> int:
        self.num_loads += 1
        if self.error is not None:
            raise self.error
        found = int(self.path.read_text())
        if self.after_reading is not None:
            self.after_reading()
        return found

    def replace(self, text: str) -> None:
        """As `legato certs` does: by another file."""
        other = self.path.with_suffix(".new")
        other.write_text(text)
        other.replace(self.path)


@pytest.fixture
def number(tmp_path: Path) -> Number:
    return Number(tmp_path / "number")


def test_many_who_ask_after_a_change_have_it_read_once(number: Number) -> None:
    assert {number.fresh.now() for _ in range(1000)} == {1}
    assert number.num_loads == 1
    number.replace("2")
    assert {number.fresh.now() for _ in range(1000)} == {2}
    assert number.num_loads == 2


def test_what_cannot_be_used_is_tried_and_told_once(number: Number, caplog: pytest.LogCaptureFixture) -> None:
    number.replace("two")
    assert {number.fresh.now() for _ in range(1000)} == {1}
    number.path.unlink()
    assert {number.fresh.now() for _ in range(1000)} == {1}
    assert number.num_loads == 3
    assert [record.getMessage().partition(": ")[2][:30] for record in caplog.records] == [
        "what was read before still hol"
    ] * 2
    number.replace("3")
    assert number.fresh.now() == 3


@pytest.mark.parametrize("number_of", [errno.EMFILE, errno.ESTALE, errno.EIO])
def test_what_cannot_be_read_for_the_moment_is_told_once_and_read_as_soon_as_it_can(
    number: Number, number_of: int, caplog: pytest.LogCaptureFixture
) -> None:
    number.replace("2")
    number.error = OSError(number_of, "for the moment")
    assert {number.fresh.now() for _ in range(1000)} == {1}
    assert len(caplog.records) == 1
    number.error = None
    assert {number.fresh.now() for _ in range(1000)} == {2}
    assert number.num_loads == 1_002


def test_what_openssl_cannot_use_is_not_tried_again(number: Number) -> None:
    number.replace("2")
    number.error = ssl.SSLError("not for the moment")
    assert {number.fresh.now() for _ in range(1000)} == {1}
    assert number.num_loads == 2


def test_what_another_thread_reads_is_not_read_beside_it(number: Number) -> None:
    reading, read = threading.Event(), threading.Event()

    def pause() -> None:
        reading.set()
        assert read.wait(60)

    number.after_reading = pause
    number.replace("2")
    with ThreadPoolExecutor(1) as other:
        slow = other.submit(number.fresh.now)
        assert reading.wait(60)
        number.after_reading = None
        number.replace("3")
        assert number.fresh.now() == 1
        read.set()
        assert slow.result(60) == 2
    assert number.fresh.now() == 3
    assert number.num_loads == 3


def test_a_file_that_only_grew_has_changed(number: Number) -> None:
    before = number.path.stat()
    number.path.write_text("11")
    os.utime(number.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert number.fresh.now() == 11


def test_without_a_first_time_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Fresh((str(tmp_path / "missing"),), (tmp_path / "missing").read_text)

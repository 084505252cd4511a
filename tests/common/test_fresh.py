"""Files are loaded once for each change; what cannot be used changes nothing."""

from pathlib import Path

import pytest

from services.common.fresh import Fresh


class Number:
    """A file with a number, and how often it was read."""

    def __init__(self, path: Path) -> None:
        self.path, self.num_loads = path, 0
        self.path.write_text("1")
        self.fresh = Fresh((str(path),), self._load)

    def _load(self) -> int:
        self.num_loads += 1
        return int(self.path.read_text())

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


def test_without_a_first_time_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Fresh((str(tmp_path / "missing"),), (tmp_path / "missing").read_text)

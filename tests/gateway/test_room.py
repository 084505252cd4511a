"""Room for so many bytes at once, each of which lies there for the same time."""

from services.gateway.room import Room

KIB = 1024


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_room_is_given_until_it_is_full_and_again_when_the_oldest_is_gone() -> None:
    clock = Clock()
    room = Room(10 * KIB, 60.0, clock)
    assert room.take(6 * KIB)
    clock.now = 20.0
    assert room.take(4 * KIB)
    assert not room.take(1)
    clock.now = 59.9
    assert not room.take(1)
    clock.now = 60.0
    assert room.take(6 * KIB)
    assert not room.take(1)
    clock.now = 80.0
    assert not room.take(5 * KIB)
    assert room.take(4 * KIB)


def test_what_is_small_takes_room_too() -> None:
    room = Room(10 * KIB, 60.0, Clock())
    assert sum(room.take(1) is not None for _ in range(100)) == 10


def test_what_is_refused_takes_no_room() -> None:
    room = Room(10 * KIB, 60.0, Clock())
    assert not room.take(11 * KIB)
    assert room.take(10 * KIB)


def test_no_room_is_none() -> None:
    assert not Room(0, 60.0, Clock()).take(0)


def test_what_is_given_back_is_free_at_once_and_but_once() -> None:
    clock = Clock()
    room = Room(10 * KIB, 60.0, clock)
    first, second = room.take(4 * KIB), room.take(6 * KIB)
    assert first
    assert second
    for _ in range(2):
        room.give_back(second)
    assert not room.take(7 * KIB)
    assert room.take(6 * KIB)
    clock.now = 60.0
    assert room.take(10 * KIB)
    room.give_back(first)
    assert not room.take(1)

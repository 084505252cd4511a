"""Redis starts on the holes that a full disk leaves in its append-only file, with all that it acknowledged."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import redis

from services.local import stores
from services.local.redis_start import mend
from tests.servers import binary, free_port

HOLE = bytes(145)


@contextmanager
def running(data: Path) -> Generator[redis.Redis]:
    """Started as nodes start it; killed when left."""
    binary("redis-check-aof")
    port = free_port()
    process = subprocess.Popen(stores.redis(data, "127.0.0.1", port, data), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert any("Ready to accept connections" in line for line in process.stdout), "it ended instead"
        with redis.Redis(port=port) as client:
            yield client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def last_file(data: Path) -> Path:
    return max((data / "appendonlydir").glob("*.incr.aof"))


def hole(file: Path, *behind: tuple[str, ...]) -> None:
    """As it is left: NULs, then what was written when there was room again."""
    commands = "".join(
        f"*{len(command)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in command) for command in behind
    )
    with file.open("ab") as end:
        end.write(HOLE + commands.encode())


def test_nothing_that_stands_before_or_behind_a_hole_is_lost(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        client.mset({f"key-{i}": "before" for i in range(100)})
    hole(last_file(tmp_path), ("SET", "first", "behind"), ("SET", "second", "behind"))
    hole(last_file(tmp_path), ("MULTI",), ("SET", "third", "behind"), ("EXEC",))
    with running(tmp_path) as client:
        assert client.mget("key-0", "key-99", "first", "second", "third") == [b"before"] * 2 + [b"behind"] * 3


def test_a_file_that_is_empty_or_all_hole_is_right(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        client.set("key", "value")
    last_file(tmp_path).write_bytes(b"")
    assert mend(tmp_path) == 0
    hole(last_file(tmp_path))
    assert mend(tmp_path) == len(HOLE)
    assert not last_file(tmp_path).read_bytes()


def test_what_is_right_and_what_is_wrong_otherwise_is_left_as_it_is(tmp_path: Path) -> None:
    assert mend(tmp_path) == 0, "there is nothing yet"
    with running(tmp_path) as client:
        client.set("key", "value")
    file = last_file(tmp_path)
    right = file.read_bytes()
    assert mend(tmp_path) == 0
    assert file.read_bytes() == right
    wrong = right + b"+nonsense\r\n"
    file.write_bytes(wrong)
    assert mend(tmp_path) == 0
    assert file.read_bytes() == wrong

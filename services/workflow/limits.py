"""Bounds of the workflow core."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are seconds. Whatever is over a bound is forgotten, the oldest first; nothing is refused."""

    max_programs: int = 20_000
    max_calls: int = 100_000
    """Of programs that live, together: some 8 KiB each, with what is known of their structure; 800 MiB. A program whose
    client never says that it is over lives until it was silent for long enough."""
    max_calls_per_program: int = 4_096
    """Of the oldest it is learned what they outlived, and nothing of what remained at them."""
    max_threads_per_program: int = 256
    max_cells: int = 16_384
    """Of each of three quantities, 640 bytes each and some 300 of its key: 45 MiB, full after 3,500 short programs."""
    cell_values: float = 2_048.0
    """A cell that has seen so many forgets half."""
    max_remembered_calls: int = 65_536
    """Of programs that are over, some 300 bytes each: they are not begun again by an entry that comes twice."""
    silent_seconds: float = 3_600.0
    """A program of which nothing was heard for so long is over."""
    valid_seconds: float = 600.0
    """For so long a forecast of a call or of a thread holds, at least."""
    snapshot_cells: int = 8_192
    """Of each quantity, the newest."""

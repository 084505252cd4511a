"""Bounds on what pools do for each other, and wait for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LendLimits:
    """Of the lending side."""

    num_connections: int = 256
    """More are refused."""
    num_sends: int = 16
    """At one time, each with a thread of its own; others wait their turn."""
    arena_fraction: float = 0.5
    """Share of the arena that may be lent to peers at one time."""
    wait_seconds: float = 30.0
    """Longest wait for blocks to be had, whatever the peer asks."""
    lease_seconds: float = 60.0
    """Longest time that one read may take."""
    stall_seconds: float = 5.0
    """A peer that takes nothing, or ends in the middle of a frame, for so long has lost its connection."""
    idle_seconds: float = 60.0
    """A connection without requests is closed after this."""


@dataclass(frozen=True, slots=True)
class PullLimits:
    """Of the pulling side."""

    num_streams: int = 4
    """Connections that one pull is spread over, if it is large enough."""
    stripe_bytes: int = 8 * 1024 * 1024
    """Blocks are dealt to the streams in runs of about this size."""
    num_receives: int = 16
    """Streams of all pulls at one time, each with a thread of its own; others wait their turn."""
    connect_seconds: float = 1.0
    stall_seconds: float = 2.0
    """A peer that sends nothing for so long, when it should, has failed."""
    pause_seconds: float = 2.0
    """After a failure, nothing is tried with that address for so long."""
    idle_seconds: float = 20.0
    """A connection is kept for the next pull for so long."""
    report_bytes: int = 16 * 1024 * 1024
    """Blocks are told of in about this size."""

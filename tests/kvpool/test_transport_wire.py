"""Frames: what is said is what is heard; anything else is refused without harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kvpool.transport import wire

names = st.text(st.characters(codec="ascii", exclude_categories=("C",)), max_size=40)
seconds = st.floats(0, 1e6)
hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=20)
words = st.integers(0, 2**64 - 1)

resolves = st.builds(wire.Resolve, names, words, st.integers(1, wire.MAX_BLOCKS), seconds)
offers = st.builds(wire.Offer, st.integers(0, 2**32 - 1), st.lists(words, max_size=20).map(tuple))
refusals = st.builds(wire.Refusal, st.sampled_from(["BUSY", "NOT_FOUND"]), st.text(max_size=60))


@st.composite
def reads(draw: st.DrawFn) -> wire.Read:
    chain = draw(hashes.filter(bool))
    first_block = draw(st.integers(0, len(chain) - 1))
    num_streams = draw(st.integers(1, wire.MAX_STREAMS))
    stream = draw(st.integers(0, num_streams - 1))
    shape = (draw(st.integers(1, 64)), draw(st.integers(1, 2**40)))
    waits = (draw(seconds), draw(seconds))
    stripe_blocks = draw(st.integers(1, 100))
    return wire.Read(draw(names), chain, first_block, *shape, *waits, stream, num_streams, stripe_blocks)


@given(st.one_of(resolves, st.builds(wire.Resolved, hashes), reads(), offers, refusals))
def test_what_is_said_is_heard(frame: wire.Frame) -> None:
    data = wire.encode(frame)
    kind, num_bytes = wire.decode_header(data[: wire.HEADER_BYTES])
    assert num_bytes == len(data) - wire.HEADER_BYTES
    assert wire.decode(kind, data[wire.HEADER_BYTES :]) == frame


@given(st.integers(1, 5), st.binary(max_size=200))
def test_any_payload_is_a_frame_or_refused(kind: int, payload: bytes) -> None:
    try:
        frame = wire.decode(kind, payload)
    except wire.WireError:
        return
    assert isinstance(frame, wire.Resolve | wire.Resolved | wire.Read | wire.Offer | wire.Refusal)


@given(st.binary(min_size=wire.HEADER_BYTES, max_size=wire.HEADER_BYTES))
def test_any_header_is_bounded_or_refused(data: bytes) -> None:
    try:
        _, num_bytes = wire.decode_header(data)
    except wire.WireError:
        return
    assert num_bytes <= wire.MAX_CHECKSUMS * 8 + 4


@given(reads(), st.integers(0, 300))
def test_streams_share_the_blocks(read: wire.Read, num_blocks: int) -> None:
    shares = [
        wire.Read(read.namespace_id, read.hashes, 0, 1, 1, 0, 0, i, read.num_streams, read.stripe_blocks)
        for i in range(read.num_streams)
    ]
    blocks = [block for share in shares for block in share.share(num_blocks)]
    assert sorted(blocks) == list(range(num_blocks))
    assert all(share.share(num_blocks) == sorted(share.share(num_blocks)) for share in shares)


def test_what_is_too_large_is_not_said() -> None:
    with pytest.raises(wire.WireError, match="limit"):
        wire.encode(wire.Resolved([bytes(32)] * (wire.MAX_BLOCKS + 1)))
    with pytest.raises(wire.WireError, match="Resolve"):
        wire.encode(wire.Resolve("x" * 300, 0, 1, 1.0))


def test_a_long_refusal_is_cut() -> None:
    data = wire.encode(wire.Refusal("BUSY", "é" * 2000))
    frame = wire.decode(5, data[wire.HEADER_BYTES :])
    assert isinstance(frame, wire.Refusal)
    assert frame.message == "é" * 497

"""One side of a copy between pools as a process of its own: `python -m tests.kvpool.node lend HOST` prints its address
and lends until its input ends; `... pull ADDRESS TIMEOUT PAUSES` pulls, and prints how it went.

With PAUSES it prints "came" when the first blocks came, and goes on after a line of input.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from services.kvpool.transport import tcp
from services.kvpool.transport.limits import PullLimits
from tests.kvpool.shelf import NAMESPACE, Shelf, new_arena

NUM_BLOCKS = 24
BLOCK_BYTES = 1_200_000
NUM_LENDABLE = 8
"""A pull takes several rounds: whatever is done to the lender when the first blocks came is done before the last."""


def shelf() -> Shelf:
    """The same in every process."""
    shelf = Shelf(NUM_BLOCKS, BLOCK_BYTES)
    shelf.num_lendable = NUM_LENDABLE
    return shelf


async def _lend(host: str) -> None:
    blocks = shelf()
    async with tcp.serve(blocks, blocks.arena, host, 0) as server:
        print(server.address, flush=True)  # noqa: T201 (a program)
        await asyncio.to_thread(sys.stdin.read)


async def _pull(address: str, timeout_seconds: float, pauses: bool) -> None:
    blocks = shelf()
    arena = new_arena(NUM_BLOCKS * BLOCK_BYTES)
    num_told = 0

    def came(num_blocks: int, checksums: Sequence[int]) -> None:
        nonlocal num_told
        if pauses and not num_told:
            print("came", flush=True)  # noqa: T201 (a program)
            sys.stdin.readline()
        num_told += num_blocks

    offsets = [i * BLOCK_BYTES for i in range(NUM_BLOCKS)]
    async with tcp.peers(arena, PullLimits(report_bytes=1, stall_seconds=0.5)) as peers:
        pulled = await peers.pull(address, NAMESPACE, blocks.hashes, offsets, 1, BLOCK_BYTES, timeout_seconds, came)
    right = all(
        arena[offset : offset + BLOCK_BYTES].tobytes() == blocks.block(i)
        for i, offset in enumerate(offsets[: pulled.num_blocks])
    )
    result = {
        "stop": pulled.stop,
        "num_blocks": pulled.num_blocks,
        "num_told": num_told,
        "right": right,
        "seconds": pulled.seconds,
    }
    print(json.dumps(result), flush=True)  # noqa: T201 (a program)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["lend", host]:
            asyncio.run(_lend(host))
        case ["pull", address, timeout_seconds, pauses]:
            asyncio.run(_pull(address, float(timeout_seconds), pauses == "pauses"))
        case _:
            sys.exit(__doc__)

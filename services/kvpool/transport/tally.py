"""Counts the leading blocks of a pull as its streams tell of theirs. Without I/O."""

from collections.abc import Sequence

from services.kvpool.transport import Came


class Tally:
    """Of one pull."""

    def __init__(self, num_blocks: int, num_shards: int, came: Came | None) -> None:
        self.num_leading = 0
        self.checksums: list[int] = []
        """Of the leading blocks, flat."""
        self._num_shards = num_shards
        self._came = came
        self._blocks: list[Sequence[int] | None] = [None] * num_blocks
        """Checksums of those that are here."""

    def add(self, block: int, checksums: Sequence[int]) -> None:
        """Blocks that came, `report` follows."""
        self._blocks[block] = checksums

    def report(self) -> None:
        """Tell of new leading blocks."""
        first = self.num_leading
        while self.num_leading < len(self._blocks) and (checksums := self._blocks[self.num_leading]) is not None:
            self.checksums += checksums
            self.num_leading += 1
        if self._came is not None and self.num_leading > first:
            self._came(self.num_leading - first, self.checksums[first * self._num_shards :])


class Share:
    """What one stream brings."""

    def __init__(self, tally: Tally, blocks: Sequence[int], checksums: Sequence[int], num_shards: int) -> None:
        self._tally = tally
        self._blocks = blocks
        self._checksums = checksums
        self._num_shards = num_shards
        self._shards_here = 0

    def tell(self, num_shards: int) -> None:
        """So many more shards, in order, are here."""
        first = self._shards_here // self._num_shards
        self._shards_here += num_shards
        for i in range(first, self._shards_here // self._num_shards):
            checksums = self._checksums[i * self._num_shards : (i + 1) * self._num_shards]
            self._tally.add(self._blocks[i], checksums)
        self._tally.report()

"""A program being written: its segment table and its calls so far.

Content is named by a key: equal keys are equal content. `shared` keys are global (the system prompt of an
application), `own` keys belong to this program.
"""

import base64
import hashlib
import random
from collections.abc import Sequence

from sim.programs.laws import TOOL_SECONDS, Scale
from sim.trace import Call, Program, Segment


class Draft:
    """Adds segments and calls; `finish` gives the program."""

    def __init__(self, program_id: str, workload: str, scale: Scale, rng: random.Random) -> None:
        self.scale = scale
        self.rng = rng
        self._program_id = program_id
        self._workload = workload
        self._segments: dict[str, tuple[int, int]] = {}
        self._calls: list[Call] = []

    def shared(self, key: str, tokens: float) -> int:
        """Index of content that all programs of the workload have in common; `tokens` is already scaled."""
        return self._segment(f"{self._workload}/{key}", tokens)

    def own(self, tokens: float) -> int:
        """Index of content that no other program has, new each time."""
        return self._segment(f"{self._program_id}/{len(self._segments)}", tokens)

    def call(
        self,
        agent: str,
        prompt: Sequence[int],
        output_tokens: float,
        *,
        parents: Sequence[int] = (),
        thread: int = 0,
        tools: Sequence[str] = (),
        phase: str = "",
        wait_kind: str | None = None,
    ) -> tuple[int, int]:
        """Add a call; its id and the segment under which its output comes back.

        It waits for the tools that its parents asked for; `wait_kind` names the wait when there were none.
        """
        tool_s = tuple(
            round(TOOL_SECONDS[tool].draw(self.rng, self.scale.gaps), 4) if tool in TOOL_SECONDS else 0.0
            for tool in tools
        )
        # Four tokens of role header and terminator, as the schema counts them.
        output = self.own(output_tokens + 4)
        waits = [max(self._calls[parent].tool_s, default=0.0) for parent in parents]
        kind = "tool" if any(self._calls[parent].tools for parent in parents) else (wait_kind or "handoff")
        call = Call(
            id=len(self._calls),
            agent=agent,
            thread=thread,
            parents=tuple(parents),
            prompt=tuple(prompt),
            output_tokens=max(1, round(output_tokens)),
            output=(output,),
            tools=tuple(tools),
            tool_s=tool_s,
            wait_s=max(waits) if parents else None,
            wait_kind=kind if parents else None,
            phase=phase,
        )
        self._calls.append(call)
        return call.id, output

    def finish(self) -> Program:
        segments = tuple(Segment(_hash(key), tokens) for key, (_, tokens) in self._segments.items())
        return Program(self._program_id, self._workload, segments, tuple(self._calls))

    def _segment(self, key: str, tokens: float) -> int:
        index, _ = self._segments.setdefault(key, (len(self._segments), max(1, round(tokens))))
        return index


def _hash(key: str) -> str:
    return base64.urlsafe_b64encode(hashlib.blake2b(key.encode(), digest_size=8).digest()).rstrip(b"=").decode()

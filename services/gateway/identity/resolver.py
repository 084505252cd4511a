"""From a request to its identity: who is asked, in which order, and what is remembered of what they said.

Our own header names the program; else the request's path; else the first dialect that is spoken; else the response that
the request goes on from; else baggage; else what it says (content_chain.py); else it is a program of its own. Where our
header or the path names the program, a dialect's session is a thread of it. A session that names its parent belongs to
its parent's program and is a thread of it, whose sub-sessions do too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from services.gateway.content import line_hashes, output_hash
from services.gateway.identity.content_chain import (
    LEAST_TOKENS,
    ContentChain,
    Opened,
    Path,
    end_of,
    path_of,
    path_of_lines,
)
from services.gateway.identity.dialects import DIALECTS, LAST_DIALECTS, Claim, claim_of, previous_response
from services.gateway.identity.identity import Identity, bounded, usable_id, usable_label
from services.gateway.identity.memory import TenantMemory
from services.gateway.openai.peers import Identifying
from services.gateway.piece import Said
from services.gateway.request import Contents, Source

_MOST_SESSIONS: Final = 65_536
_MOST_RESPONSES: Final = 65_536
_MOST_MESSAGES: Final = 8192
"""Or lines of text, of one request; prompts beyond are not looked at."""
_NOT_LOOKED_AT: Final = Path((), "", 0, ())
_LONG_TEXT: Final = 4 * LEAST_TOKENS
"""Characters of a text that nobody else says by chance."""
NOTHING_SAID: Final = Identifying()


class Resolved:
    """An identity. Who reads the request's output tells `hear` of it, so that later requests are recognised."""

    def __init__(
        self, identity: Identity, final: bool, chain: ContentChain, opened: Sequence[tuple[Opened, Path]], key: bytes
    ) -> None:
        self.identity = identity
        self.final = final
        """The program ends with this request."""
        self._chain = chain
        self._opened = opened
        self._key = key

    def hear(self, index: int, said: Said) -> None:
        """All that the `index`-th call said."""
        handed_on = [text for _, arguments in said.tool_calls for text in _long_texts(arguments)]
        told = [output_hash(text, (), self._key) for text in handed_on]
        opened, path = self._opened[index]
        self._chain.end(opened, self._ends(path, said), said.content, said.tokens, told)

    def _ends(self, path: Path, said: Said) -> Sequence[int]:
        """Where later prompts may stand that go on from this one and its output."""
        if path.open_line is None:
            return [end_of(path.ends[-1], [said.content])] if path.ends else ()
        if not path.ends or not said.text.strip():
            return ()
        begin = path.ends[-2] if len(path.ends) > 1 else 0
        lines = line_hashes(path.open_line + said.text, self._key)
        ends = [end_of(begin, lines)]
        if said.text.rpartition("\n")[0].strip():  # the last line may not be whole, and those before say something new
            ends.append(end_of(begin, lines[:-1]))
        return ends


class Resolver:
    """One gateway's. What it remembers is bounded and lost with it: a session keeps its id, a chain begins anew."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._roots: TenantMemory[str] = TenantMemory(_MOST_SESSIONS)
        """By session, of those that are not a program themselves: the program's id as it was said."""
        self._responses: TenantMemory[tuple[str, str]] = TenantMemory(_MOST_RESPONSES)
        """By the id of a response: program and thread."""
        self._chain = ContentChain()

    def paths(self, prompts: Iterable[tuple[Source, Contents]]) -> list[Path]:
        """What each prompt says. May run in a thread."""
        left = _MOST_MESSAGES
        result: list[Path] = []
        for source, contents in prompts:
            size = source.count("\n") + 1 if isinstance(source, str) else len(contents.hashes)
            if size > left:
                result.append(_NOT_LOOKED_AT)
                continue
            left -= size
            if isinstance(source, str):
                result.append(path_of_lines(line_hashes(source, self._key), source.rpartition("\n")[2]))
            else:
                result.append(path_of(contents.hashes, contents.tokens, contents.roles))
        return result

    def resolve(
        self,
        said: Identity,
        headers: Mapping[str, str],
        body: Identifying,
        prompts: Sequence[tuple[Path, int]],
    ) -> Resolved:
        """`said`: what our own headers and the path say. `prompts`: the request's, and how often each is answered."""
        identity, final = self._named(said, headers, body)
        placed = False
        if identity.source == "anonymous" and prompts:
            identity, placed = self._placed(identity, prompts[0][0])
        opened: list[tuple[Opened, Path]] = []
        for path, choices in prompts:
            begun = self._chain.begin(identity.tenant, path, identity.program_id, identity.thread, placed=placed)
            opened += [(begun, path)] * choices
        return Resolved(identity, final, self._chain, opened, self._key)

    def gave_out(self, identity: Identity, response_id: str) -> None:
        """The answer to this call goes by this id; a later request may go on from it."""
        self._responses.put(identity.tenant, response_id, (identity.program_id, identity.thread))

    def _named(self, said: Identity, headers: Mapping[str, str], body: Identifying) -> tuple[Identity, bool]:
        """By anything but what it says; and whether the program ends with this call."""
        claim = claim_of(DIALECTS, headers, body)
        if said.source != "anonymous":
            return (said if claim is None else _labelled(said, claim, claim.thread or claim.session)), False
        if claim is None:
            response = previous_response(body)
            if response and (known := self._responses.get(said.tenant, response)):
                return replace(
                    said, program_id=known[0], thread=said.thread or known[1], source="previous-response"
                ), False
            claim = claim_of(LAST_DIALECTS, headers, body)
        return (said, False) if claim is None else self._claimed(said, claim)

    def _claimed(self, said: Identity, claim: Claim) -> tuple[Identity, bool]:
        tenant, session, parent = said.tenant, bounded(claim.session), bounded(claim.parent)
        root = bounded(claim.program) or self._roots.get(tenant, session) or self._root(tenant, parent or session)
        if session != root:
            self._roots.put(tenant, session, root)
        thread = "/".join(part for part in (session if session != root else "", claim.thread) if part)
        identity = replace(said, program_id=usable_id(root, tenant, self._key), source=claim.source)
        return _labelled(identity, claim, thread), claim.final and not thread

    def _root(self, tenant: str, session: str) -> str:
        return self._roots.get(tenant, session) or session

    def _placed(self, said: Identity, path: Path) -> tuple[Identity, bool]:
        place = self._chain.place(said.tenant, path)
        if place is None:
            return said, False
        source = f"content-chain;confidence={'high' if place.sure else 'low'}"
        return replace(said, program_id=place.program_id, thread=said.thread or place.thread, source=source), True


def _labelled(identity: Identity, claim: Claim, thread: str) -> Identity:
    """With the claim's labels where our own headers say none."""
    return replace(
        identity,
        thread=identity.thread or usable_label(thread),
        agent=identity.agent or usable_label(claim.agent),
        step=identity.step or usable_label(claim.step),
    )


def _long_texts(arguments: str) -> list[str]:
    """Of a tool's arguments: what may be another agent's task."""
    if len(arguments) < _LONG_TEXT:
        return []
    try:
        values: object = json.loads(arguments)
    except (ValueError, RecursionError):
        return []
    if not isinstance(values, dict):
        return []
    return [
        text for text in cast("dict[str, Any]", values).values() if isinstance(text, str) and len(text) >= _LONG_TEXT
    ]

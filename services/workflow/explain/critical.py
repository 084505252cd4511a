"""The critical path: the chain of calls, and of gaps between them, that determined how long a program took."""

from collections.abc import Mapping
from math import inf
from typing import NamedTuple


class Span(NamedTuple):
    """Of one call."""

    began: float
    ended: float
    """inf: it runs."""
    parents: tuple[str, ...]


def critical_path(spans: Mapping[str, Span]) -> list[str]:
    """Call ids, the last first: the call that ended last, the parent of it that ended last, and so on. Of several that
    run, the one that began first counts."""
    if not spans:
        return []
    path = [max(spans, key=lambda call_id: (spans[call_id].ended, -spans[call_id].began))]
    while True:
        span = spans[path[-1]]
        parents = [parent for parent in span.parents if parent in spans and spans[parent].began < span.began]
        if not parents:
            return path
        path.append(max(parents, key=lambda call_id: spans[call_id].ended))


def gap_seconds(span: Span, spans: Mapping[str, Span]) -> float:
    """From the end of its parents, as far as they are known, to its begin."""
    ends = [spans[parent].ended for parent in span.parents if parent in spans]
    last = max((end for end in ends if end < inf), default=span.began)
    return max(0.0, span.began - last)

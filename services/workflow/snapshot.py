"""Snapshots: what was learned, in the state store, so that a new life need not read the whole log again.

A snapshot that is missing, of another version or broken costs time, never sense: the log is then read from its
beginning. Instances write over each other's, for each of them is as good as another.
"""

import asyncio
import base64
import json
import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from legato.v1 import workflow_pb2
from services.common import foretold
from services.common.state import Store, StoreUnavailable
from services.workflow import metrics
from services.workflow.board import Said
from services.workflow.learner import Learner

_log = logging.getLogger(__name__)

_KEY: Final = "workflow/snapshot"
_VERSION: Final = 2


async def restore(learner: Learner, store: Store) -> None:
    """Go on where the newest snapshot ends, if there is one. Raises StoreUnavailable."""
    packed = await store.get(_KEY)
    if packed is None:
        return
    try:
        values = await asyncio.to_thread(_unpack, packed)
        if values.get("version") != _VERSION:
            _log.warning("the snapshot is of version %s; the log is read from its beginning", values.get("version"))
            return
        said = [_said(line) for line in values["said"]]
        learner.restore(values["core"], values["position"])
    except Exception as error:  # whatever a core makes of what it did not write
        _log.warning("the snapshot is not readable, the log is read from its beginning: %r", error)
        return
    for forecast in said:
        learner.board.post(forecast.foretold, forecast.made)
    _log.info("learned until entry %s", learner.position)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was learned until a position of the log. Shares nothing with who learned it."""

    position: str
    core: Mapping[str, Any]
    said: Sequence[Said]


def take(learner: Learner) -> Snapshot:
    """As it is now."""
    began = time.perf_counter()
    taken = Snapshot(learner.position, learner.core.snapshot(), learner.board.in_force())
    metrics.SNAPSHOT_SECONDS.set(time.perf_counter() - began)
    return taken


async def write(taken: Snapshot, store: Store) -> bool:
    """Put it into the store; whether that worked, which is logged."""
    try:
        packed = await asyncio.to_thread(_pack, taken)
        await store.put(_KEY, packed)
    except StoreUnavailable as failure:
        _log.warning("what was learned is not saved: %s", failure)
        return False
    metrics.SNAPSHOT_BYTES.set(len(packed))
    return True


def _pack(taken: Snapshot) -> bytes:
    lines = [
        (forecast.made, base64.b64encode(foretold.write(forecast.foretold).SerializeToString()).decode())
        for forecast in taken.said
    ]
    values = {"version": _VERSION, "position": taken.position, "core": taken.core, "said": lines}
    return zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 1)


def _unpack(packed: bytes) -> dict[str, Any]:
    return json.loads(zlib.decompress(packed))


def _said(line: tuple[float, str]) -> Said:
    made, written = line
    message = workflow_pb2.CallForecast.FromString(base64.b64decode(written))
    return Said(foretold.read(message), float(made))

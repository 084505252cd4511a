"""Results by content: what was computed by this code from these parameters is not computed again."""

import hashlib
import json
import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "policies"
_SIMULATED = ("services/scheduler", "services/worker/simulated", "services/common", "services/workflow", "sim")
_MEASURED = ("bench/policies/workloads.py", "bench/policies/synthetic.py", "bench/policies/cell.py")
_KINDS = {".py", ".toml", ".json"}


@cache
def code_version() -> str:
    """Of everything that decides a result: equal sources, equal results."""
    files = [path for folder in _SIMULATED for path in (ROOT / folder).rglob("*") if path.suffix in _KINDS]
    files += [ROOT / path for path in _MEASURED]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def place(kind: str, parameters: object, suffix: str) -> Path:
    """Where the result for these parameters belongs."""
    name = hashlib.sha256(f"{code_version()} {kind} {parameters!r}".encode()).hexdigest()[:24]
    return FOLDER / kind / f"{name}{suffix}"


def read_json(path: Path) -> Any | None:
    """None: it is not there yet."""
    return json.loads(path.read_text()) if path.exists() else None


def write_json(path: Path, value: object) -> None:
    _write(path, json.dumps(value).encode())


def read_pickle(path: Path) -> Any | None:
    """None: it is not there yet. Only what `write_pickle` wrote on this machine is read."""
    return pickle.loads(path.read_bytes()) if path.exists() else None


def write_pickle(path: Path, value: object) -> None:
    _write(path, pickle.dumps(value))


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)

"""The directory that all nodes of a cluster see: where they find each other, and what a following job finds again.

control.json      where etcd and Redis are now; written by the node that runs them
connection.json   for clients: how to reach the gateways; written when the first call can be served
secrets/          api_keys, etcd_password, redis_password, one a file; absent: there is none
etcd/, redis/     their data
stores.lock       held by the node whose etcd and Redis write it, which is named there
logs/NODE/        what each service of a node said

Files are replaced whole, so that a reader sees the old one or the new one, and only their owner may read them.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any


class SharedDirectory:
    """One cluster's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.etcd = path / "etcd"
        self.redis = path / "redis"
        self.stores_lock_file = path / "stores.lock"
        self.connection_file = path / "connection.json"
        self.api_keys_file = path / "secrets" / "api_keys"
        self._control_file = path / "control.json"

    def logs(self, node: str) -> Path:
        return self.path / "logs" / node

    def secret(self, name: str) -> str:
        """Empty: there is none."""
        file = self.path / "secrets" / name
        return file.read_text(encoding="utf-8").strip() if file.exists() else ""

    def control(self, service: str) -> str | None:
        """Where "etcd" or "redis" is now, host:port; None while no node has said so."""
        try:
            return json.loads(self._control_file.read_text(encoding="utf-8"))[service]
        except FileNotFoundError:
            return None

    def write_control(self, etcd: str, redis: str) -> None:
        _replace(self._control_file, {"etcd": etcd, "redis": redis})

    def write_connection(self, content: dict[str, Any]) -> None:
        _replace(self.connection_file, content)


def _replace(path: Path, content: dict[str, Any]) -> None:
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)

"""Where a cluster's gateways are: host:port, several with commas, or the path of a connection file.

Whoever starts a cluster writes a connection file, JSON with `addresses` (of gateways, host:port) and, where there are
any, `base_url` (of the HTTP API), `api_key` and `ca_file`. It is read again whenever a gateway is looked for, so that
who lost one cluster finds its successor. A path begins with "/", "." or "~", or ends with ".json".
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from legato.errors import NO_CONNECTION_FILE, InvalidRequest, Unavailable


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a cluster."""

    addresses: Sequence[str]
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    ca_file: str = ""

    def after(self, address: str) -> str:
        """The gateway to try after that one; any, where it is none of these: clients spread over them."""
        if address not in self.addresses:
            return random.choice(self.addresses)
        return self.addresses[(self.addresses.index(address) + 1) % len(self.addresses)]


class Addresses:
    """What a user said of them. Raises InvalidRequest when that is nothing."""

    def __init__(self, said: str) -> None:
        said = said.strip()
        self.path = Path(said).expanduser().absolute() if said[:1] in tuple("/.~") or said.endswith(".json") else None
        self.said = said if self.path is None else str(self.path)
        """Good in any working directory."""
        self._listed = tuple(part.strip() for part in said.split(",") if part.strip())
        if not self._listed:
            raise InvalidRequest("the address of a gateway is empty", field="address")

    def read(self) -> Connection:
        """As it is now. Raises Unavailable while there is no such file, or none that can be understood."""
        if self.path is None:
            return Connection(self._listed)
        try:
            return _connection(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            message = f"the connection file {self.path} cannot be read: {getattr(error, 'strerror', None) or error}"
            raise Unavailable(message, reason=NO_CONNECTION_FILE) from error


def _connection(said: object) -> Connection:
    if not isinstance(said, Mapping):
        raise TypeError("it is no JSON object")
    fields = cast("Mapping[str, Any]", said)  # the keys of a JSON object are strings
    addresses = [str(address) for address in fields["addresses"]]
    if not addresses:
        raise ValueError("it names no addresses")
    others = {name: str(fields.get(name) or "") for name in ("base_url", "api_key", "ca_file")}
    return Connection(addresses, **others)

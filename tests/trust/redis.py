"""A real redis-server behind TLS and a password, which it reads from its standard input."""

import contextlib
import subprocess
from collections.abc import Generator
from pathlib import Path

from tests.servers import binary, free_port


@contextlib.contextmanager
def locked_redis(certificates: Path, password: str, user: str = "") -> Generator[int]:
    """Its port, once it listens. `user`: one beside the default one, with the same password."""
    port = free_port()
    settings = [
        f"bind 127.0.0.1 127.0.0.2\nport 0\ntls-port {port}\nsave ''",
        f"tls-ca-cert-file {certificates}/ca.pem",
        f"tls-cert-file {certificates}/redis.pem\ntls-key-file {certificates}/redis.key",
        f"requirepass {password}",
        f"user {user} on >{password} ~* &* +@all" if user else "",
    ]
    process = subprocess.Popen([binary("redis-server"), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n".join(settings).encode())
    process.stdin.close()
    try:
        assert any(b"Ready to accept connections" in line for line in process.stdout), "redis-server did not start"
        yield port
    finally:
        process.kill()
        process.stdout.close()
        process.wait()

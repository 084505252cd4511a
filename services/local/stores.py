"""etcd and Redis beside the services: how they are run, and their passwords.

Passwords reach them through files and pipes that only their owner can read, never as arguments.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ETCD_USER = "root"
_PEER = "http://127.0.0.1:2380"
"""What etcd, alone in its cluster, calls itself in its data: the same wherever it runs next, whatever it listens on."""
_HEALTH_SECONDS = 60.0
"""etcd reads its data first, from a shared file system perhaps."""
_ASK_AGAIN_SECONDS = 0.1
_REFUSALS = ("user name is empty", "permission denied")
"""Of an etcd that asks for a password, to one who shows none: without a certificate, and with one."""


class StoreFailed(Exception):
    """etcd does not answer, or refuses its password."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files, in PEM, that a server shows, and who vouches for its clients."""

    ca_file: str
    cert_file: str
    key_file: str


def etcd(
    data_dir: Path, host: str, client_port: int, peer_port: int, shown: Certificate | None = None
) -> tuple[str, ...]:
    """One etcd server without peers. With a certificate it talks TLS, to those that have one too. It listens for peers
    all the same, on loopback, where other users of the host are: with a certificate, it hears who has the same."""
    scheme = "http" if shown is None else "https"
    client = f"{scheme}://{host}:{client_port}"
    secure = (
        ()
        if shown is None
        else (
            *("--cert-file", shown.cert_file, "--key-file", shown.key_file),
            *("--client-cert-auth", "--trusted-ca-file", shown.ca_file),
            *("--peer-cert-file", shown.cert_file, "--peer-key-file", shown.key_file),
            *("--peer-client-cert-auth", "--peer-trusted-ca-file", shown.ca_file, "--peer-cert-allowed-cn", "etcd"),
        )
    )
    return (
        *("etcd", "--data-dir", str(data_dir), "--name", "legato", "--log-level", "warn", "--logger", "zap"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", f"{scheme}://127.0.0.1:{peer_port}"),
        *("--initial-advertise-peer-urls", _PEER, "--initial-cluster", f"legato={_PEER}"),
        *("--auto-compaction-retention", "1h", *secure),
        *("--bcrypt-cost", "4"),  # the least: our password is random, and clients that all come back must not wait
    )


def redis(
    data_dir: Path, host: str, port: int, private: Path, password: str = "", shown: Certificate | None = None
) -> tuple[str, ...]:
    """A Redis server that writes what it holds to an append-only file in `data_dir`. With a certificate it talks TLS,
    to those that have one too. Its configuration goes into `private`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    lines = [f"bind {host}", f'dir "{data_dir}"', "appendonly yes", 'save ""']
    if password:
        lines.append(f'requirepass "{password}"')
    if shown is None:
        lines.append(f"port {port}")
    else:
        lines += ["port 0", f"tls-port {port}", f'tls-ca-cert-file "{shown.ca_file}"']
        lines += [f'tls-cert-file "{shown.cert_file}"', f'tls-key-file "{shown.key_file}"']
    file = private / "redis.conf"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return (sys.executable, "-m", "services.local.redis_start", str(data_dir), str(file))


async def protect_etcd(endpoint: str, password: str, own: Certificate | None = None) -> None:
    """Wait until etcd answers, and have it ask for the password of `ETCD_USER` from now on, if it does not yet. `own`:
    what is shown to an etcd that talks TLS."""
    ask, ask_as_user = _Etcdctl(endpoint, own), _Etcdctl(endpoint, own, password)
    async with asyncio.timeout(_HEALTH_SECONDS):
        while True:
            code, _ = await ask_as_user("endpoint", "health")
            if not code:
                break
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
    if not password:
        return
    code, said = await ask("get", "/legato")
    if code and any(refusal in said for refusal in _REFUSALS):
        return
    if code:  # it may be open to all: not knowing is no reason to go on
        raise StoreFailed(f"etcd does not say whether it asks for a password: {said}")
    await ask("user", "add", ETCD_USER, "--interactive=false", say=password)
    await ask("user", "grant-role", ETCD_USER, "root")
    code, said = await ask("auth", "enable")
    if code:
        raise StoreFailed(f"etcd does not take its password: {said}")


class _Etcdctl:
    """etcd's own client: `await ask("get", "key")`."""

    def __init__(self, endpoint: str, own: Certificate | None, password: str = "") -> None:
        self._environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": f"http://{endpoint}"}
        if own is not None:
            self._environment |= {"ETCDCTL_ENDPOINTS": f"https://{endpoint}", "ETCDCTL_CACERT": own.ca_file}
            self._environment |= {"ETCDCTL_CERT": own.cert_file, "ETCDCTL_KEY": own.key_file}

        if password:
            self._environment["ETCDCTL_USER"] = f"{ETCD_USER}:{password}"

    async def __call__(self, *command: str, say: str = "") -> tuple[int, str]:
        """Exit status and output. `say`: to its standard input."""
        pipe, output = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        process = await asyncio.create_subprocess_exec(
            "etcdctl", *command, env=self._environment, stdin=pipe, stdout=pipe, stderr=output
        )
        said, _ = await process.communicate(f"{say}\n".encode() if say else None)
        return await process.wait(), said.decode(errors="replace").strip()

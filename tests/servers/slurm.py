"""A Slurm cluster on one machine: the real slurmctld, and the real slurmd on each node.

Every node is a machine of its own as far as programs can tell: network, name, /tmp, /dev/shm and processes, in kernel
namespaces behind one bridge; the rest of the file system is shared, as it is on clusters. Nothing is set up outside of
them, so whatever way a test ends, the kernel takes everything back with each node's first process. What users do on the
login node, which has our /tmp, tests do with `Slurm.run`.
"""

import os
import secrets
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import binary
from tests.servers.netns import needs_namespaces, run

NETWORK = "10.99.0"
LOGIN = "login"
CONTROL = "control"
"""The partition without GPUs."""
NUM_GPUS = 4
REQUEUE_SECONDS = 5
"""What a job that lost its node waits at least until it starts again; Slurm's default is 120, its least 5."""
PATIENCE_SECONDS = 180.0
"""For what takes seconds where a machine has nothing else to do."""
_NAMESPACES = {"net": "net", "uts": "uts", "mount": "mnt", "pid": "pid_for_children"}

# bash takes the statuses of orphaned processes, as a machine's first process must. It ends, and all with it, when its
# input does.
_FIRST_PROCESS = r"""
set -eu
for path in $KEPT; do mkdir -p "$TMP/$path"; mount --bind "/tmp/$path" "$TMP/$path"; done
mount --bind "$SHARED/hosts" /etc/hosts
mount --rbind "$TMP" /tmp
mount -t tmpfs tmpfs /dev/shm
hostname "$NAME"
ip link set lo up
echo up
read -r plugged
eval "$DAEMONS"
read -r off || true
"""
_LOGIN_DAEMONS = "munged --foreground {munged} >/dev/null & slurmctld -D -i -f {folder}/slurm.conf &"
_NODE_DAEMONS = "slurmd -D -N {name} -f {folder}/slurm.conf &"
_CONFIGURATION = """\
ClusterName=legato
SlurmctldHost={login}({network}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={requeue_seconds}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/nodes/%n/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/nodes/%n/pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
PlugStackConfig=/dev/null
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=1
GresTypes=gpu
KillWait=30
SlurmdTimeout=10
MessageTimeout=10
"""


@dataclass
class Node:
    """A machine. Its files are in `own`, which other nodes see too."""

    name: str
    number: int
    folder: Path
    daemons: str
    """What its first process starts, in bash."""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def own(self) -> Path:
        return self.folder / "nodes" / self.name

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        namespaces = (f"--{flag}=/proc/{self.pid}/ns/{file}" for flag, file in _NAMESPACES.items())
        return ("nsenter", *namespaces)

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} is off"
        return self.process.pid

    def power_on(self, switch: "Node | None" = None) -> None:
        """Start it with a cable to `switch`; without one it is the switch. It does not wait for what it starts."""
        for folder in ("tmp", "spool"):
            (self.own / folder).mkdir(parents=True, exist_ok=True)
        kept = [path.relative_to("/tmp") for path in (self.folder, Path.cwd()) if path.is_relative_to("/tmp")]
        own = {
            "NAME": self.name,
            "SHARED": str(self.folder),
            "TMP": str(self.own / "tmp") if switch else "/tmp",
            "KEPT": " ".join(map(str, kept)) if switch else "",
            "DAEMONS": self.daemons,
        }
        unshare = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc")
        with (self.own / "log").open("ab") as log:
            self.process = subprocess.Popen(
                (*unshare, "bash", "-c", _FIRST_PROCESS),
                env={**os.environ, **own},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n", (self.own / "log").read_text(encoding="utf-8")
        self._plug(switch)
        self.process.stdin.write(b"plugged\n")
        self.process.stdin.flush()

    def power_off(self) -> None:
        """Everything on it is gone at once, without a word."""
        if self.process is not None:
            self.process.communicate()
            self.process = None

    def _plug(self, switch: "Node | None") -> None:
        ours = (*self.enter[:2], "ip")
        if switch is None:
            run(*ours, "link", "add", "eth0", "type", "bridge")
        else:
            cable = f"to-{self.number}"
            peer = ("type", "veth", "peer", "name", cable, "netns", str(switch.pid))
            run("ip", "link", "add", "eth0", "netns", str(self.pid), *peer)
            run(*switch.enter[:2], "ip", "link", "set", cable, "master", "eth0", "up")
        run(*ours, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*ours, "link", "set", "eth0", "up")


@dataclass
class Slurm:
    """A running cluster: a login node, on which its controller runs, and the nodes that jobs run on."""

    folder: Path
    """Seen by all nodes under this path; made for the cluster and removed with it."""
    login: Node
    nodes: Mapping[str, Node] = field(default_factory=dict[str, Node])

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str, on: str = LOGIN) -> tuple[str, ...]:
        """`words` as a command that runs on a node, in our working directory."""
        node = self.login if on == LOGIN else self.nodes[on]
        return (*node.enter, "env", "-C", str(Path.cwd()), *words)

    def run(
        self, *words: str, environment: Mapping[str, str] | None = None, on: str = LOGIN, timeout: float = 60.0
    ) -> str:
        """What the command prints. It must succeed."""
        done = subprocess.run(
            self.command(*words, on=on),
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Of each node."""
        return dict(line.split() for line in self.run("sinfo", "--Node", "--noheader", "--format=%N %T").splitlines())

    def set_state(self, node: str, state: str) -> None:
        """As an administrator does: "down", "drain", "resume"."""
        self.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")


def until(holds: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Ask until it holds: Slurm's state cannot be awaited."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


@contextmanager
def slurm(**partitions: Sequence[str]) -> Generator[Slurm]:
    """A cluster for the length of the context, each keyword a partition with the names of its nodes.

    Every node has 4 GPUs, but those of the partition `control`, and more cores and memory than the machine.
    """
    for program in ("slurmctld", "slurmd", "sbatch", "munged"):
        binary(program)
    needs_namespaces()
    with tempfile.TemporaryDirectory(prefix="legato-slurm-") as name, ExitStack() as stack:
        folder = Path(name)
        login = Node(LOGIN, 1, folder, _LOGIN_DAEMONS.format(folder=folder, munged=_munged(folder)))
        names = [node for nodes in partitions.values() for node in nodes]
        nodes = {
            node: Node(node, number, folder, _NODE_DAEMONS.format(name=node, folder=folder))
            for number, node in enumerate(names, start=11)
        }
        cluster = Slurm(folder, login, nodes)
        _configure(cluster, partitions)
        for node in (login, *nodes.values()):
            stack.callback(node.power_off)
            node.power_on(None if node is login else login)
        until(lambda: set(cluster.states().values()) == {"idle"}, "all nodes idle")
        yield cluster


def _munged(folder: Path) -> str:
    """Make its key; return its options."""
    own = folder / "munge"
    own.mkdir(mode=0o755)
    (own / "key").touch(mode=0o400)
    (own / "key").write_bytes(secrets.token_bytes(1024))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return " ".join(f"--{option}={own / file}" for option, file in files.items())


def _configure(cluster: Slurm, partitions: Mapping[str, Sequence[str]]) -> None:
    folder, nodes = cluster.folder, cluster.nodes.values()
    folder.chmod(0o755)
    hosts = [f"{node.address} {node.name}" for node in (cluster.login, *nodes)]
    (folder / "hosts").write_text("\n".join(("127.0.0.1 localhost", *hosts, "")), encoding="utf-8")
    lines = [_CONFIGURATION.format(login=LOGIN, network=NETWORK, folder=folder, requeue_seconds=REQUEUE_SECONDS)]
    gpus: list[str] = []
    for partition, names in partitions.items():
        has_gpus = partition != CONTROL
        for name in names:
            node = cluster.nodes[name]
            size = f"CPUs=32 RealMemory=64000{f' Gres=gpu:{NUM_GPUS}' if has_gpus else ''}"
            lines.append(f"NodeName={name} NodeAddr={node.address} {size}")
            if has_gpus:
                gpus.append(f"NodeName={name} Name=gpu File={_devices(node)}")
        lines.append(f"PartitionName={partition} Nodes={','.join(names)} MaxTime=INFINITE State=UP")
    (folder / "slurm.conf").write_text("\n".join((*lines, "")), encoding="utf-8")
    (folder / "gres.conf").write_text("\n".join((*gpus, "")), encoding="utf-8")


def _devices(node: Node) -> str:
    """Slurm counts device files; these are null."""
    node.own.mkdir(parents=True)
    for number in range(NUM_GPUS):
        os.mknod(node.own / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return f"{node.own}/gpu[0-{NUM_GPUS - 1}]"

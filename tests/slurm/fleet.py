"""A cluster of Legato as its users have it: a site file, `legato slurm`, and programs that run on the login node."""

import json
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.slurm import PATIENCE_SECONDS, Slurm, until
from tests.slurm.programs import NUM_PROGRAMS

ROOT = Path(__file__).parents[2]
SITE = ROOT / "slurm" / "site.env"
SETTINGS = """\
[simulated]
kv_tokens = 262144
"""


@dataclass
class Fleet:
    """`legato slurm` with a site file of its own."""

    cluster: Slurm

    @property
    def site(self) -> Path:
        return self.cluster.folder / "site.env"

    def write_site(self, **values: object) -> None:
        """The site file as it is shipped, for this cluster, with these values."""
        settings = self.cluster.folder / "legato.toml"
        settings.write_text(SETTINGS, encoding="ascii")
        places = {"SHARED_DIR": self.cluster.folder, "LEGATO_HOME": ROOT, "VENV": sys.prefix, "SETTINGS": settings}
        control = {"CONTROL_PARTITION": "control", "CONTROL_CPUS": 8, "CONTROL_MEMORY": "4G", "CONTROL_TIME": 30}
        workers = {"WORKER_PARTITION": "gpu", "WORKER_CPUS": 8, "WORKER_MEMORY": "4G", "WORKER_TIME": 30}
        counts = {"WORKERS": 0, "PREFILL_WORKERS": 2, "DECODE_WORKERS": 2}
        engines = {"ENGINE": "simulated", "GPUS_PER_NODE": 4, "TENSOR_PARALLEL": 4, "KV_MEMORY_BYTES": 8 << 20}
        wanted = {**places, **control, **workers, **counts, **engines, **values}
        lines = SITE.read_text(encoding="utf-8").splitlines()
        keys = [line.partition("=")[0] for line in lines]
        assert wanted.keys() <= set(keys), f"{wanted.keys() - set(keys)}: not in {SITE}"
        text = (f"{key}={wanted[key]}" if key in wanted else line for key, line in zip(keys, lines, strict=True))
        self.site.write_text("\n".join((*text, "")), encoding="utf-8")

    @property
    def job_dir(self) -> Path:
        return self.cluster.folder / "legato"

    @property
    def connection_file(self) -> Path:
        return self.job_dir / "connection.json"

    def connection(self) -> dict[str, Any]:
        return json.loads(self.connection_file.read_text(encoding="utf-8"))

    def slurm(self, *words: str) -> str:
        """What `legato slurm` says."""
        return self.legato("slurm", *words, "--site", str(self.site))

    def legato(self, *words: str) -> str:
        sites_may_say = {"SBATCH_EXPORT": "NONE", "SLURM_EXPORT_ENV": "NONE"}
        environment = {"LEGATO_ADDRESS": str(self.connection_file), **sites_may_say}
        return self.cluster.run(sys.executable, "-m", "legato", *words, environment=environment)

    def newcomer(self) -> str:
        """How a call of a new program ends, over HTTP."""
        return self.cluster.run(sys.executable, "-m", "tests.slurm.newcomer", str(self.connection_file)).strip()

    def programs(self) -> list[dict[str, Any]]:
        return json.loads(self.legato("programs", "--json", "--limit", "1000"))

    def workers(self) -> Counter[str]:
        """How many there are of each role."""
        rows = json.loads(self.legato("workers", "--json"))
        return Counter(row["role"] for row in rows)

    def jobs(self, name: str = "") -> dict[str, str]:
        """Id to state of every job and array element that is not over, of this name."""
        words = ("squeue", "--array", "--noheader", "--format=%i %T", *([f"--name={name}"] if name else ()))
        return dict(line.split() for line in self.cluster.run(*words).splitlines())

    def control_jobs(self) -> list[str]:
        return list(self.jobs("legato-control"))

    def elements(self, role: str) -> list[str]:
        """Of the array of workers of a role."""
        return sorted(self.jobs(f"legato-workers-{role}"))

    def node_of(self, job: str) -> str:
        """Where it runs; empty: nowhere now."""
        return self.cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()

    def batch_node_of(self, job: str) -> str:
        """Where its batch script runs."""
        return self.cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%B").strip()

    def logs(self, num_characters: int | None = 3000) -> str:
        """The end of everything that was said; None: all of it."""
        files = sorted(path for path in (self.job_dir / "logs").rglob("*") if path.is_file())
        texts = ((path, path.read_text(encoding="utf-8", errors="replace")) for path in files)
        return "\n".join(f"--- {path}\n{text[-(num_characters or len(text)) :]}" for path, text in texts)


@dataclass
class Running:
    """Fifty programs that run."""

    fleet: Fleet
    process: "subprocess.Popen[bytes]"
    calls: Path
    output: Path

    def made(self) -> Counter[str]:
        """Calls that each program has finished."""
        lines = self.calls.read_text(encoding="ascii").splitlines() if self.calls.exists() else ()
        return Counter(json.loads(line)["program"] for line in lines)

    def go_on(self, num_calls: int = 2) -> None:
        """Wait until each of them has finished further calls."""
        before = self.made()

        def further() -> bool:
            assert self.process.poll() is None, f"programs ended:\n{self.output.read_text(encoding='utf-8')}"
            now = self.made()
            return all(now[name] >= before[name] + num_calls for name in NAMES)

        until(further, f"{num_calls} more calls of each program, after {before}")

    def complete(self) -> None:
        """Let them end; none had a call that failed, or an answer that is not as it must be."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.output.read_text(encoding="utf-8")[-5000:]


NAMES = [f"program-{index}" for index in range(NUM_PROGRAMS)]


@contextmanager
def programs(fleet: Fleet) -> Generator[Running]:
    """They run for the length of the context, or until `complete`."""
    calls, output = fleet.cluster.folder / "calls", fleet.cluster.folder / "programs.log"
    command = fleet.cluster.command(
        sys.executable, "-m", "tests.slurm.programs", str(fleet.connection_file), str(calls)
    )
    with output.open("ab") as log:
        process = subprocess.Popen(
            command, env=fleet.cluster.environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
    with process:
        try:
            yield Running(fleet, process, calls, output)
        finally:
            process.kill()


def is_private(path: Path) -> bool:
    """Only its owner may read it."""
    return stat.S_IMODE(path.stat().st_mode) & 0o077 == 0

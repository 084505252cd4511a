"""A site's values: what `slurm/site.env` says of a cluster, as bash reads it too.

Lines are KEY=value, quoted as in a shell; values may name variables and keys above. Everything that can be wrong
without asking Slurm is refused here, with the key.
"""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from legato.errors import LegatoError
from legato.slurm import times

VARIABLE = "LEGATO_SITE"
JOB_DIR_VARIABLE = "LEGATO_JOB_DIR"
_MEMORY = re.compile(r"\d+[KMGT]?")
_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


class SiteError(LegatoError):
    """The site file is wrong; the message names the key."""


def _number(least: int) -> Callable[[str], str | None]:
    def check(value: str) -> str | None:
        return None if value.isdigit() and int(value) >= least else f"a number, at least {least}"

    return check


def _matches(pattern: re.Pattern[str], what: str) -> Callable[[str], str | None]:
    return lambda value: None if pattern.fullmatch(value) else what


def _time(value: str) -> str | None:
    try:
        times.seconds(value)
    except ValueError:
        return "a time such as 24:00:00"
    return None


def _one_of(*choices: str) -> Callable[[str], str | None]:
    return lambda value: None if value in choices else f"one of {', '.join(choices)}"


def _absolute(value: str) -> str | None:
    return None if value.startswith("/") else "an absolute path"


def _absolute_or_empty(value: str) -> str | None:
    return _absolute(value) if value else None


def _given(value: str) -> str | None:
    return None if value else "a value"


def _anything(value: str) -> str | None:
    return None


_KEYS: Mapping[str, Callable[[str], str | None]] = {
    "CLUSTER_NAME": _matches(_NAME, "letters, digits, - and _"),
    "SHARED_DIR": _absolute,
    "LEGATO_HOME": _absolute,
    "VENV": _absolute_or_empty,
    "APPTAINER_IMAGE": _absolute_or_empty,
    "APPTAINER_OPTIONS": _anything,
    "MODULES": _anything,
    "SETUP": _absolute_or_empty,
    "STORES_BIN": _absolute_or_empty,
    "SETTINGS": _absolute_or_empty,
    "ACCOUNT": _anything,
    "CONTROL_PARTITION": _anything,
    "CONTROL_NODES": _one_of("1", "2"),
    "CONTROL_CPUS": _number(1),
    "CONTROL_MEMORY": _matches(_MEMORY, "a size such as 16G"),
    "CONTROL_TIME": _time,
    "CONTROL_OPTIONS": _anything,
    "WORKER_PARTITION": _anything,
    "GPUS_PER_NODE": _number(0),
    "WORKER_CPUS": _number(1),
    "WORKER_MEMORY": _matches(_MEMORY, "a size such as 200G"),
    "WORKER_TIME": _time,
    "WORKER_OPTIONS": _anything,
    "WORKERS": _number(0),
    "PREFILL_WORKERS": _number(0),
    "DECODE_WORKERS": _number(0),
    "ENGINE": _one_of("vllm", "simulated"),
    "MODEL": _given,
    "MODEL_PATH": _absolute,
    "TENSOR_PARALLEL": _number(1),
    "PIPELINE_PARALLEL": _number(1),
    "ENGINE_NODES": _number(1),
    "KV_MEMORY_BYTES": _number(1024 * 1024),
    "KV_DISK_DIR": _absolute_or_empty,
    "KV_DISK_BYTES": _number(1024 * 1024),
    "KV_DISK_SHARED": _one_of("yes", "no"),
    "INTERFACE": _anything,
    "GATEWAY_HTTP_PORT": _number(0),
    "GATEWAY_PORT": _number(0),
    "METRICS_PORT": _number(0),
    "TLS": _one_of("yes", "no"),
    "NOTICE_SECONDS": _number(10),
    "MARGIN_SECONDS": _number(0),
    "STOP_SECONDS": _number(1),
    "DRAIN_SECONDS": _number(0),
}
"""Every key, and what is wrong with a value."""


class Site:
    """A site file that was read. `site["WORKERS"]` is its value."""

    def __init__(self, path: Path, values: Mapping[str, str], job_dir: Path) -> None:
        self.path = path
        self.values = values
        self.job_dir = job_dir
        """The cluster's directory, which all nodes see."""
        self.connection_file = job_dir / "connection.json"
        """For clients; there once a call could be served."""

    def __getitem__(self, key: str) -> str:
        return self.values[key]

    def number(self, key: str) -> int:
        return int(self.values[key])

    def require_started(self) -> None:
        """SiteError unless a cluster was once submitted here."""
        if not self.job_dir.is_dir():
            raise SiteError(
                f"SHARED_DIR, CLUSTER_NAME: no directory {self.job_dir}, so no cluster was submitted with {self.path}"
            )


def read(path: str | None = None, environ: Mapping[str, str] | None = None) -> Site:
    """The site file `path`, else the one that LEGATO_SITE names. Raises SiteError."""
    environ = os.environ if environ is None else environ
    chosen = path or environ.get(VARIABLE)
    if not chosen:
        raise SiteError(f"which site? Copy slurm/site.env, change it, and name it in {VARIABLE} or by --site")
    file = Path(chosen).absolute()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SiteError(f"site file {file}: {error.strerror}") from None
    values = parse(text, environ)
    job_dir = environ.get(JOB_DIR_VARIABLE) or f"{values['SHARED_DIR']}/{values['CLUSTER_NAME']}"
    return Site(file, values, Path(job_dir))


def parse(text: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Every key with its value. Raises SiteError for what is unknown, lacking, or wrong."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, value = _assignment(line, number)
        if not key:
            continue
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            raise SiteError(f"line {number}: unknown key {key}{f'; did you mean {close[0]}?' if close else ''}")
        values[key] = _expanded(value, {**environ, **values}, key)
    for key, wrong in _KEYS.items():
        if key not in values:
            raise SiteError(f"{key} is missing")
        if (wanted := wrong(values[key])) is not None:
            raise SiteError(f"{key}: expected {wanted}, got {values[key]!r}")
    _consistent(values)
    return values


def _assignment(line: str, number: int) -> tuple[str, str]:
    """Key and value as written; empty for lines that say nothing. Single quotes keep `$` in a shell; here nothing does,
    so a value with both is refused."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise SiteError(f"line {number}: {error}") from None
    if not words:
        return "", ""
    key, equals, value = words[0].partition("=")
    if len(words) > 1 or not equals or not key.isidentifier():
        raise SiteError(f"line {number}: expected KEY=value (a value with spaces needs quotes), got {line!r}")
    if "'" in line and "$" in line:
        raise SiteError(f"line {number}: {key}: use double quotes")
    return key, value


def _expanded(value: str, known: Mapping[str, str], key: str) -> str:
    def found(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name not in known:
            raise SiteError(f"{key}: ${name} is not set")
        return known[name]

    expanded = _REFERENCE.sub(found, value)
    if "$" in expanded or "`" in expanded:
        raise SiteError(f"{key}: only $NAME and ${{NAME}} are understood, got {value!r}")
    return expanded


def _consistent(values: Mapping[str, str]) -> None:
    number = {key: int(value) for key, value in values.items() if value.isdigit()}
    if not values["VENV"] and not values["APPTAINER_IMAGE"]:
        raise SiteError("VENV: expected an environment to run in, here or as APPTAINER_IMAGE")
    for key in ("CONTROL_TIME", "WORKER_TIME"):
        if times.seconds(values[key]) <= number["NOTICE_SECONDS"]:
            raise SiteError(f"{key}: expected more than NOTICE_SECONDS ({number['NOTICE_SECONDS']}), got {values[key]}")
    if number["MARGIN_SECONDS"] >= number["NOTICE_SECONDS"]:
        raise SiteError("MARGIN_SECONDS: expected less than NOTICE_SECONDS, so that there is time to finish calls")
    if number["DRAIN_SECONDS"] > number["STOP_SECONDS"]:
        raise SiteError("DRAIN_SECONDS: expected at most STOP_SECONDS, of which it is a part")
    if bool(number["PREFILL_WORKERS"]) != bool(number["DECODE_WORKERS"]):
        raise SiteError("PREFILL_WORKERS and DECODE_WORKERS: expected both or neither")
    _whole_engines(number, values["ENGINE"])


def _whole_engines(number: Mapping[str, int], engine: str) -> None:
    gpus, nodes = number["TENSOR_PARALLEL"] * number["PIPELINE_PARALLEL"], number["ENGINE_NODES"]
    on_node = number["GPUS_PER_NODE"]
    if nodes == 1 and on_node and on_node % gpus:
        raise SiteError(
            f"TENSOR_PARALLEL * PIPELINE_PARALLEL: expected a divisor of GPUS_PER_NODE, {on_node}, got {gpus}; what is "
            "left over would idle"
        )
    if nodes > 1 and (gpus != on_node * nodes if on_node else gpus % nodes):
        wanted = f"GPUS_PER_NODE * ENGINE_NODES, {on_node * nodes}" if on_node else f"a multiple of {nodes}"
        raise SiteError(f"ENGINE_NODES: expected TENSOR_PARALLEL * PIPELINE_PARALLEL to be {wanted}, got {gpus}")
    if nodes > 1 and engine != "vllm":
        raise SiteError("ENGINE_NODES: expected 1, as simulated engines have one node")

"""Settings: one TOML file, overridden by `LEGATO_<SECTION>__<FIELD>`; whatever is misspelt is refused.

A service declares a frozen model whose fields are the sections it reads; `load` fills it. Sections of other services
may stand in the same file. This is the only module that reads the environment.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

SECTIONS = (
    *("cluster", "tls", "registry", "state", "telemetry", "gateway", "scheduler", "workflow", "worker", "simulated"),
    *("kvpool", "bench"),
)
"""Every section a settings file may have."""

PREFIX = "LEGATO_"
DEFAULT_FILE = "legato.toml"
_NO_SETTINGS = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("CONFIG", "ADDRESS", "HTTP", "PROGRAM_ID", "TENANT", "WORKFLOW", "API_KEY", "CA_FILE"),
        *("HOME", "SITE", "JOB_DIR"),
    )
)
"""Variables that name the file, or are for clients or batch scripts."""


class Section(BaseModel):
    """Base of all settings models."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ClusterSection(Section):
    """What all services of one cluster agree on."""

    name: str = "legato"
    """Keeps clusters apart that share an etcd or a Redis."""
    host: str = "127.0.0.1"
    """Address that this process listens on and tells others."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """How long a service that was asked to stop lets its calls finish."""


class TlsSection(Section):
    """Who a service is to the others of its cluster, by certificates that `legato certs` makes. All empty: services
    talk plain text to whoever calls."""

    ca_file: str = ""
    """Certificate of the cluster's own authority."""
    cert_file: str = ""
    """This service's certificate. "{service}" stands for its name: gateway, scheduler, kvpool, workflow or worker."""
    key_file: str = ""
    """Its key, likewise."""


class RegistrySection(Section):
    """Where services find each other."""

    endpoints: tuple[str, ...] = ()
    """etcd servers as host:port. Empty: the embedded registry of `python -m services`."""
    lease_seconds: int = Field(default=5, ge=2)
    """A service that stays silent this long is gone."""
    user: str = ""
    password: SecretStr = SecretStr("")
    ca_file: str = ""
    """Who vouches for etcd; empty: plain text."""
    cert_file: str = ""
    """What we show to etcd, with its key; empty: the certificate of [tls], if there is one."""
    key_file: str = ""


class StateSection(Section):
    """Where program state is kept."""

    url: str = ""
    """redis://host:port/db, rediss:// for TLS, unix:// for a socket. Empty: a store inside the process."""
    user: str = ""
    password: SecretStr = SecretStr("")
    ca_file: str = ""
    """Who vouches for Redis, with rediss://; empty: whom this host trusts."""
    cert_file: str = ""
    """What we show to Redis, with its key; empty: the certificate of [tls], if there is one."""
    key_file: str = ""
    timeout_seconds: float = Field(default=1.0, gt=0)
    """Bound on one command."""


class TelemetrySection(Section):
    """Logs, metrics and traces."""

    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field(default="json", pattern="^(json|text)$")
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of this process's /metrics and /readyz; 0: none (the gateway always serves its own on its HTTP port)."""
    otlp_endpoint: str = ""
    """host:port of an OTLP/gRPC collector; empty: no traces leave the process."""
    sample_ratio: float = Field(default=1.0, ge=0, le=1)


class KVPoolSection(Section):
    """The host's KV pool: KV blocks outside the engines. Read by the pool and by the workers beside it."""

    enabled: bool = True
    """Workers use a pool; without one that answers they compute KV anew."""
    name: str = ""
    """Unique in the cluster, the same after a restart; empty: the host's name."""
    directory: str = "run/kvpool"
    """Of the pool's socket for this host's workers; a path of at most 90 bytes."""
    port: int = Field(default=0, ge=0, le=65535)
    """Control port for the scheduler; 0: any free port."""
    data_port: int = Field(default=0, ge=0, le=65535)
    """Port from which other pools pull; 0: any free port."""
    dram_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    """Size of the shared memory; all of it is taken at the start."""
    numa_node: int = Field(default=-1, ge=-1)
    """Where the shared memory lies; -1: wherever the kernel puts it."""
    huge_pages: Literal["auto", "never", "always"] = "auto"
    """Pages of 2 MiB: auto: where the kernel gives them for shared memory; always: from hugetlbfs, or fail."""
    ssd_directory: str = ""
    """Of the disk tier; empty: there is none."""
    ssd_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024 * 1024)
    """Size of the disk tier."""
    retention: str = "density"
    """What is kept: a file of services/kvpool/retention."""
    retention_params: dict[str, float] = Field(default_factory=dict)
    """Keywords of the policy."""
    transport: Literal["auto", "tcp"] = "auto"
    """How pools copy between each other; auto: the fastest there is, which is tcp so far (docs/decisions/0010)."""
    reservation_seconds: float = Field(default=5.0, gt=0)
    """Room that a worker reserved and did not fill in time is taken back."""
    lease_seconds: float = Field(default=10.0, gt=0)
    """Longest hold on blocks that are to be read."""
    acquire_seconds: float = Field(default=2.0, gt=0)
    """Longest wait of a call for disk or peer before it computes what has not come."""
    retain_seconds: float = Field(default=2.0, ge=0)
    """An engine keeps a call's blocks in its own cache for so long after it, unless others need the room."""
    prefetch: bool = False
    """Bring a thread's blocks back from disk before its tool is expected to return. It has not paid yet
    (docs/decisions/0013)."""


class SettingsError(Exception):
    """The settings are wrong; the message says where and what would be right."""


S = TypeVar("S", bound=BaseModel)


def load(model: type[S], path: Path | str | None = None, environ: Mapping[str, str] | None = None) -> S:
    """Read settings for the sections that `model` has as fields.

    `path`: the TOML file; None: the file named by LEGATO_CONFIG, else legato.toml in the working directory if there
    is one. Raises SettingsError for unknown sections, keys and variables and for values out of range.
    """
    environ = os.environ if environ is None else environ
    data = _read_file(path, environ)
    for section in data:
        _known(section, SECTIONS, f"section [{section}]")
    for name, value in environ.items():
        if name.startswith(PREFIX) and name not in _NO_SETTINGS:
            _override(data, model, name, value)
    sections = {name: value for name, value in data.items() if name in model.model_fields}
    try:
        return model.model_validate(sections)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(model, item) for item in error.errors())) from None


def environment(overrides: Mapping[str, object]) -> dict[str, str]:
    """This process's environment for a child, with settings replaced: `{"registry.endpoints": ["127.0.0.1:2379"]}`."""
    variables: dict[str, str] = {}
    for name, value in overrides.items():
        text = value if isinstance(value, str) else json.dumps(value)
        variables[f"{PREFIX}{name.replace('.', '__').upper()}"] = text
    return {**os.environ, **variables}


def _read_file(path: Path | str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    chosen = path or environ.get(f"{PREFIX}CONFIG")
    if chosen is None and not Path(DEFAULT_FILE).exists():
        return {}
    try:
        return tomllib.loads(Path(chosen or DEFAULT_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{chosen or DEFAULT_FILE}: {error}") from None


def _override(data: dict[str, Any], model: type[BaseModel], name: str, value: str) -> None:
    section, separator, key = name.removeprefix(PREFIX).lower().partition("__")
    if not separator:
        raise SettingsError(f"variable {name}: expected {PREFIX}<SECTION>__<FIELD>")
    _known(section, SECTIONS, f"variable {name}: section {section}")
    table = data.setdefault(section, {})
    if not isinstance(table, dict):
        raise SettingsError(f"section [{section}] must be a table")
    table[key] = _parse(value, _annotation(model, (section, key)))


def _parse(value: str, annotation: Any) -> Any:
    """A variable's value: for a text setting as it stands, else as TOML where it is TOML."""
    if annotation in (str, SecretStr, str | None, SecretStr | None):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _known(name: str, names: tuple[str, ...], what: str) -> None:
    if name not in names:
        raise SettingsError(f"unknown {what}{_suggest(name, names)}")


def _suggest(name: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(names)}"


def _explain(model: type[BaseModel], item: ErrorDetails) -> str:
    location = item["loc"]
    where = f"[{location[0]}] {'.'.join(str(part) for part in location[1:])}".rstrip() if location else "settings"
    owner = _annotation(model, location[:-1]) if location else None
    if item["type"] == "extra_forbidden" and isinstance(owner, type) and issubclass(owner, BaseModel):
        return f"{where}: unknown setting{_suggest(str(location[-1]), tuple(owner.model_fields))}"
    shown = item["input"]
    if isinstance(shown, dict | list | tuple) or _secret(_annotation(model, location)):
        return f"{where}: {item['msg']}"
    return f"{where}: {item['msg']}, got {shown!r}"


def _annotation(model: type[BaseModel], location: tuple[int | str, ...]) -> Any:
    """The type of the setting at `location`; where it lies within another type (a tuple's item), that type."""
    found: Any = model
    for part in location:
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            break
        field = found.model_fields.get(str(part))
        found = None if field is None else field.annotation
    return cast(Any, found)  # isinstance narrowed it to a type of unknown type arguments


def _secret(annotation: Any) -> bool:
    """Whether a value given for it may hold a secret: a whole section may."""
    if isinstance(annotation, type):
        return issubclass(annotation, SecretStr | BaseModel)
    return any(_secret(part) for part in get_args(annotation))

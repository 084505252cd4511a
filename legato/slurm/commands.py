"""The command lines that start Legato's jobs: pure, so that `--dry-run`, tests and jobs that follow say the same.

Each kind of job has a script `jobs/KIND.sh` in the cluster's directory that submits it. `legato slurm submit` writes
and runs it; a job near its end runs it to submit the one that follows.
"""

import shlex
from collections.abc import Sequence

from legato.slurm.site import JOB_DIR_VARIABLE, VARIABLE, Site

ROLES = {"both": "WORKERS", "prefill": "PREFILL_WORKERS", "decode": "DECODE_WORKERS"}
"""Of workers, and the key that says how many jobs of it there are."""

_SCRIPT = """\
#!/bin/bash
# Submits {kind} of the cluster {cluster}. Written by `legato slurm submit`. Arguments are further options of sbatch.
# Of the job that runs this, the one submitted must know nothing.
for name in "${{!SLURM_@}}"; do [[ $name == SLURM_CONF ]] || unset "$name"; done
export {variables}
exec {command}
"""


def control_name(site: Site) -> str:
    return f"{site['CLUSTER_NAME']}-control"


def workers_name(site: Site, role: str) -> str:
    return f"{site['CLUSTER_NAME']}-workers-{role}"


def whole_name(site: Site) -> str:
    return f"{site['CLUSTER_NAME']}-whole"


def job_names(site: Site) -> list[str]:
    """Of all jobs that the cluster may have."""
    return [control_name(site), *(workers_name(site, role) for role in ROLES), whole_name(site)]


def kinds(site: Site, whole: bool) -> dict[str, list[str]]:
    """What `submit` starts: kind to the options of sbatch and the script. `whole`: one heterogeneous job."""
    if whole:
        return {"whole": _whole(site)}
    wanted = {"control": _control(site)}
    for role, key in ROLES.items():
        if count := site.number(key):
            wanted[f"workers-{role}"] = workers(site, role, f"0-{count - 1}")
    return wanted


def workers(site: Site, role: str, elements: str) -> list[str]:
    """An array of worker jobs. `elements`: as `--array` takes them."""
    name = workers_name(site, role)
    return [*_job(site, name, f"--array={elements}"), *_worker_node(site), _script(site, "workers.sbatch")]


def script(site: Site, kind: str, command: Sequence[str]) -> str:
    """The text of `jobs/KIND.sh`."""
    variables = {
        "LEGATO_HOME": site["LEGATO_HOME"],
        VARIABLE: str(site.path),
        JOB_DIR_VARIABLE: str(site.job_dir),
    }
    _, _, role = kind.partition("workers-")
    if role:
        variables["LEGATO_WORKER__ROLE"] = role
    words = [shlex.quote(word) for word in command]
    further = words.index(":") if ":" in words else len(words) - 1  # options end where the next component begins
    words.insert(further, '"$@"')
    return _SCRIPT.format(
        kind=kind,
        cluster=site["CLUSTER_NAME"],
        variables=" ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()),
        command=" ".join(("sbatch", "--parsable", *words)),
    )


def _control(site: Site) -> list[str]:
    return [*_job(site, control_name(site)), *_control_node(site), _script(site, "control.sbatch")]


def _whole(site: Site) -> list[str]:
    counts = [site.number(key) for key in ROLES.values()]
    components = [_control_node(site), *(_worker_node(site, count) for count in counts if count)]
    joined = [*_job(site, whole_name(site)), *components[0]]
    for component in components[1:]:
        joined += [":", *component]
    return [*joined, _script(site, "legato.sbatch")]


def _job(site: Site, name: str, *array: str) -> list[str]:
    account = [f"--account={site['ACCOUNT']}"] if site["ACCOUNT"] else []
    number = "%A_%a" if array else "%j"
    return [
        *(f"--job-name={name}", *account, *array, f"--output={site.job_dir}/logs/%x-{number}.out"),
        *("--requeue", "--open-mode=append", f"--signal=B:USR1@{site['NOTICE_SECONDS']}"),
        "--export=ALL",  # a site's SBATCH_EXPORT may say otherwise; secrets are in files, not in the environment
    ]


def _control_node(site: Site) -> list[str]:
    nodes = [f"--nodes={site['CONTROL_NODES']}", "--ntasks-per-node=1", f"--cpus-per-task={site['CONTROL_CPUS']}"]
    return [*_place(site, "CONTROL"), *nodes, *shlex.split(site["CONTROL_OPTIONS"])]


def _worker_node(site: Site, num_engines: int = 1) -> list[str]:
    count = num_engines * site.number("ENGINE_NODES")
    gpus = [f"--gpus-per-node={site['GPUS_PER_NODE']}"] if site.number("GPUS_PER_NODE") else []
    nodes = [f"--nodes={count}", "--ntasks-per-node=1", f"--cpus-per-task={site['WORKER_CPUS']}", *gpus]
    return [*_place(site, "WORKER"), *nodes, *shlex.split(site["WORKER_OPTIONS"])]


def _place(site: Site, kind: str) -> list[str]:
    partition = [f"--partition={site[f'{kind}_PARTITION']}"] if site[f"{kind}_PARTITION"] else []
    return [*partition, f"--time={site[f'{kind}_TIME']}", f"--mem={site[f'{kind}_MEMORY']}"]


def _script(site: Site, name: str) -> str:
    return f"{site['LEGATO_HOME']}/slurm/{name}"

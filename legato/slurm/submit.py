"""`legato slurm submit`: start a cluster."""

from pathlib import Path

from legato.slurm import commands, queue
from legato.slurm.site import Site, SiteError

DRAINING = "draining"
"""A file in the cluster's directory; while it is there, no job submits one that follows."""


def write_scripts(site: Site, kinds: dict[str, list[str]]) -> dict[str, Path]:
    """Make the cluster's directory, its owner's only, with a script that submits each kind of job."""
    for needed in ("slurm/common.sh", "services/__main__.py"):
        if not (Path(site["LEGATO_HOME"]) / needed).exists():
            raise SiteError(f"LEGATO_HOME: no checkout of Legato at {site['LEGATO_HOME']} ({needed} is not there)")
    if site["ENGINE"] == "vllm" and not Path(site["MODEL_PATH"]).is_dir():
        raise SiteError(f"MODEL_PATH: no directory {site['MODEL_PATH']}; compute nodes cannot download one")
    for folder in (site.job_dir, site.job_dir / "jobs", site.job_dir / "logs"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = {kind: site.job_dir / "jobs" / f"{kind}.sh" for kind in kinds}
    for kind, command in kinds.items():
        paths[kind].write_text(commands.script(site, kind, command), encoding="utf-8")
        paths[kind].chmod(0o700)
    return paths


def submit(site: Site, whole: bool) -> dict[str, str]:
    """Submit every kind of job that the cluster has none of; kind to job id. All or none: SlurmError when Slurm refuses
    one, when there is none to submit, and while the cluster is drained or is one job."""
    kinds = commands.kinds(site, whole)
    live = queue.jobs(commands.job_names(site))
    names = {job.name for job in live}
    lacking = {kind: command for kind, command in kinds.items() if f"{site['CLUSTER_NAME']}-{kind}" not in names}
    in_one = whole or commands.whole_name(site) in names
    if live and (in_one or not lacking or (site.job_dir / DRAINING).exists()):
        ids = ", ".join(job.id for job in live)
        raise queue.SlurmError(
            f"{site['CLUSTER_NAME']} has jobs already: {ids} (`legato slurm scale` changes how many)"
        )
    paths = write_scripts(site, lacking)
    (site.job_dir / DRAINING).unlink(missing_ok=True)
    if not live:  # it is of a cluster that is over
        site.connection_file.unlink(missing_ok=True)
    submitted: dict[str, str] = {}
    try:
        for kind, path in paths.items():
            submitted[kind] = queue.run(str(path)).strip()
    except queue.SlurmError:
        if submitted:
            queue.cancel(list(submitted.values()))
        raise
    return submitted

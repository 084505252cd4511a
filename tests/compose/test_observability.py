"""What is shown of the stack: Prometheus finds every process, and the dashboard asks for nothing that is not there.

Prometheus is Debian's, in the place of its image; Grafana and the collector cannot be had here, so what they read is
checked for being of one piece.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.compose import bed
from tests.compose.conftest import Stack

COMPOSE = bed.ROOT / "compose"
PROMETHEUS = f"http://{bed.THEIRS}:9090"
_STAND_IN = f"""
FROM {bed.BASE}
COPY prometheus /bin/
RUN install --directory --owner 65534 /prometheus
USER 65534
ENTRYPOINT ["/bin/prometheus"]
"""
_NAME = re.compile(r"\b(?:legato|process)_\w+|\bup\b")
_FAMILY = re.compile(r"_(?:bucket|count|sum|total)$")


def panels() -> list[tuple[str, str]]:
    """(title, PromQL)"""
    dashboard = json.loads((COMPOSE / "grafana/dashboards/legato.json").read_text(encoding="utf-8"))
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "30s"))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def read(name: str) -> Any:
    return yaml.safe_load((COMPOSE / name).read_text(encoding="utf-8"))


def test_panels_have_their_own_ids_and_places_and_the_provisioned_datasource() -> None:
    dashboard = json.loads((COMPOSE / "grafana/dashboards/legato.json").read_text(encoding="utf-8"))
    (datasource,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells |= own
        assert panel["type"] == "row" or panel["datasource"]["uid"] == datasource["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_collector_uses_what_it_declares_and_prometheus_scrapes_it() -> None:
    config = read("otel-collector.yaml")
    connectors = set(config["connectors"])
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used - connectors == set(config[kind])
    (spans,) = [job for job in read("prometheus.yml")["scrape_configs"] if job["job_name"] == "spans"]
    (found,) = spans["dns_sd_configs"]
    assert found["names"] == ["otel-collector"]
    assert config["exporters"]["prometheus"]["endpoint"].endswith(f":{found['port']}")
    services = read("compose.yaml")["services"]
    assert (
        f"./otel-collector.yaml:{services['otel-collector']['command'][0].partition('=')[2]}:ro"
        in (services["otel-collector"]["volumes"])
    )


def test_every_scraped_name_is_a_service() -> None:
    services = read("compose.yaml")["services"]
    for job in read("prometheus.yml")["scrape_configs"]:
        assert {name for found in job["dns_sd_configs"] for name in found["names"]} <= set(services), job["job_name"]


@pytest.mark.compose
@pytest.mark.timeout(1800)
async def test_every_panel_shows_what_the_processes_measure(stack: Stack, tmp_path: Path) -> None:
    binary = shutil.which("prometheus") or bed.missing(
        "prometheus is not installed (Debian: apt-get install prometheus)"
    )
    shutil.copy(binary, tmp_path)
    (tmp_path / "Dockerfile").write_text(_STAND_IN, encoding="utf-8")
    stack.docker.run("build", "--quiet", "--tag", "legato-test-prometheus", str(tmp_path))
    variables = {"PROMETHEUS_IMAGE": "legato-test-prometheus"}
    docker = replace(stack.docker, variables={**stack.docker.variables, **variables})
    docker.compose("up", "--detach", "--no-deps", "prometheus")
    try:
        async with aiohttp.ClientSession(PROMETHEUS, timeout=aiohttp.ClientTimeout(20)) as prometheus:
            await scraped(prometheus, {"gateway": 1, "scheduler": 2, "workflow": 1, "kvpool": 1, "worker": 2})
            async with stack.client as client, client.program() as program:
                await program.agent("coder").chat("Hello", max_tokens=8)
            await shown(prometheus, "sum(increase(legato_scheduler_program_seconds_count[1m])) > 0")
            await shown(prometheus, "count_over_time(legato_gateway_calls_total[30s]) > 2")  # a rate needs two
            known = {_FAMILY.sub("", name) for name in await ask(prometheus, "/api/v1/metadata")} | {"up"}
            for title, query in panels():
                for name in _NAME.findall(query):
                    assert name in known or _FAMILY.sub("", name) in known, f"{title}: no metric {name}"
                answer = await ask(prometheus, "/api/v1/query", query=query)
                assert answer["result"] or not await sampled(prometheus, query), f"{title}: {query} is empty"
    finally:
        docker.compose("rm", "--force", "--stop", "prometheus")


async def ask(prometheus: aiohttp.ClientSession, path: str, **parameters: str) -> Any:
    async with prometheus.get(path, params=parameters) as response:
        told = await response.json()
    assert told["status"] == "success", told
    return told["data"]


async def sampled(prometheus: aiohttp.ClientSession, query: str) -> bool:
    """Whether each metric of the query has a sample: those with labels have none before something happens."""
    answers = [await ask(prometheus, "/api/v1/query", query=name) for name in _NAME.findall(query)]
    return all(answer["result"] for answer in answers)


async def shown(prometheus: aiohttp.ClientSession, query: str) -> None:
    """Wait until the query has a result. Prometheus tells only when it is asked."""
    async with asyncio.timeout(60):
        while True:
            try:
                if (await ask(prometheus, "/api/v1/query", query=query))["result"]:
                    return
            except aiohttp.ClientConnectionError:
                pass  # it has just been started
            await asyncio.sleep(1)


async def scraped(prometheus: aiohttp.ClientSession, num_processes: dict[str, int]) -> None:
    """Wait until so many processes of each service answer it."""
    for query in _queries(num_processes):
        await shown(prometheus, query)


def _queries(num_processes: dict[str, int]) -> Iterator[str]:
    for job, number in num_processes.items():
        yield f'sum(up{{job="{job}"}}) == {number}'

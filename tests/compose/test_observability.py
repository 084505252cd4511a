"""What is shown of the stack: Prometheus finds every process, and the dashboard asks for nothing that is not there.

Prometheus is Debian's, in the place of its image; Grafana and the collector cannot be had here, so what they read is
checked for being of one piece.
"""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.compose import bed
from tests.compose.conftest import Stack
from tests.compose.prometheus import PROCESSES, ask, running, scraped, shown

COMPOSE = bed.ROOT / "compose"
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


def test_with_tls_the_same_is_scraped_with_an_operators_certificate() -> None:
    secured = ("scheme", "tls_config")
    plain, tls = (read(name)["scrape_configs"] for name in ("prometheus.yml", "prometheus-tls.yml"))
    assert [{key: value for key, value in job.items() if key not in secured} for job in tls] == plain
    for job in tls:
        if job["job_name"] != "spans":
            assert job["tls_config"]["server_name"] == f"{job['job_name']}.legato.legato"


@pytest.mark.compose
@pytest.mark.timeout(1800)
async def test_every_panel_shows_what_the_processes_measure(stack: Stack, tmp_path: Path) -> None:
    async with running(stack.docker, tmp_path) as prometheus:
        await scraped(prometheus, PROCESSES)
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


async def sampled(prometheus: aiohttp.ClientSession, query: str) -> bool:
    """Whether each metric of the query has a sample: those with labels have none before something happens."""
    answers = [await ask(prometheus, "/api/v1/query", query=name) for name in _NAME.findall(query)]
    return all(answer["result"] for answer in answers)

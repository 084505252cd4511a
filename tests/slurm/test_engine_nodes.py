"""One vLLM engine over two nodes of a job: it serves, and again when Slurm has given it another node for a lost one."""

from collections.abc import Iterator

import pytest

from tests.servers.slurm import slurm, until
from tests.slurm.fleet import Fleet
from tests.worker.vllm_worker import needs_vllm_cpu

SECONDS = 180.0
"""Slurm may take two minutes to run a job again that lost a node."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    needs_vllm_cpu()
    with slurm(control=["control"], gpu=["gpu0", "gpu1", "gpu2"]) as cluster:
        made = Fleet(cluster)
        yield made
        print(made.jobs(), cluster.states(), made.logs())  # noqa: T201  # shown with a failure


def test_an_engine_over_two_nodes_serves_and_gets_another_node_for_a_lost_one(fleet: Fleet) -> None:
    engine = {"ENGINE": "vllm", "GPUS_PER_NODE": 0, "TENSOR_PARALLEL": 2, "ENGINE_NODES": 2}
    fleet.write_site(WORKERS=1, PREFILL_WORKERS=0, DECODE_WORKERS=0, **engine)
    fleet.slurm("submit")
    until(fleet.connection_file.exists, "a call can be served", SECONDS)
    assert fleet.newcomer() == "200"
    assert fleet.workers() == {"both": 1}
    (element,) = fleet.elements("both")
    first = fleet.batch_node_of(element)
    (other,) = {"gpu0", "gpu1"} - {first}
    fleet.cluster.nodes[other].power_off()
    fleet.cluster.set_state(other, "down")
    until(lambda: not fleet.workers(), "the engine is gone", SECONDS)
    until(lambda: fleet.workers() == {"both": 1}, "the engine has another node", SECONDS)
    assert fleet.newcomer() == "200"
    fleet.slurm("drain", "--patience", "1")
    until(lambda: not fleet.jobs(), "all jobs are over")

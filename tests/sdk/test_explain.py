"""`client.explain` and `legato explain`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import legato
from legato.explanation import ExplainedCall, ExplainedTool, Explanation, explanation_of
from legato.perfetto import trace_of
from legato.reply import Timings, Usage
from legato.v1 import workflow_pb2
from legato.waterfall import lines_of
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import FakeGateway
from tests.sdk.test_command import Outcome
from tests.sdk.test_command import legato as command
from tests.sdk.waterfalls import NAME, call, waterfall

TEXT = """\
program fix-issue-42, lives, 15.00s, 6 calls, 1 tool run, workflow code-review, tenant acme
not kept, because older: 2 calls
critical path: decode 5.00s, tools 5.00s, prefill 2.50s, queued 1.50s, paused 1.00s
expected to be complete in 9.00s, with a chance of 0.8 in 3.00s to 20.00s

  CALL             AGENT                                                  START   TIME  QUEUE PREFILL DECODE    HIT
* plan             planner      .=###                                     0.00s  2.00s  0.50s   0.50s  1.00s
  fast             coder             .##                                  2.00s  1.00s  0.25s   0.25s  0.50s
    failed: ENGINE_DEAD
* slow             coder             ~~~pp...=====###########             3.00s  8.00s  2.00s   2.00s  4.00s    25%
    miss: 4,096 tokens that its program had on w1 were evicted when program other came there
    drift: message 1 (system) was edited since call plan: 1,200 tokens again, 0.24s of an engine
* join             planner                                   ~~~~~~~~~~> 15.00s
  pytest           coder                                     ~~~~~~~~    11.00s  3.00s

p paused  . queued  = prefill  # decode  o else  ~ tool  - client  > runs; * critical path, whose gaps are drawn
"""


def change(response: workflow_pb2.ExplainResponse, kind: str, role: str) -> str:
    """The line of the slow call's drift, if it were of that kind."""
    response.calls[2].drift.kind, response.calls[2].drift.role = kind, role
    (line,) = [line for line in lines_of(explanation_of(response)) if "drift:" in line]
    return line.split(": ")[1]


async def test_an_explanation_is_a_value(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.explanations[NAME] = waterfall()
    explanation = await client.explain(NAME)
    assert (explanation.started, explanation.ended) == (datetime.fromtimestamp(1_700_000_000, UTC), None)
    assert [call.outcome for call in explanation.calls] == ["stop", "failed", "stop", "running"]
    slow, join = explanation.calls[2:]
    assert slow.drift == legato.Drift("plan", 1, "system", "edited", 1200, 0.24)
    assert slow.cache == legato.CacheNote(64, 4096, "evicted", "w1", "other", 1.0)
    assert (slow.timings.decode_seconds, slow.usage.cached_tokens) == (4.0, 2048)
    assert explanation.gap(join) == legato.Gap(11.0, 4.0, ("pytest",))
    assert explanation.eta == legato.Eta(9, 3, 20)


async def test_a_program_that_nobody_knows_is_not_found(client: legato.Client) -> None:
    with pytest.raises(legato.NotFound):
        await client.explain("unknown")


async def test_a_waterfall_is_text(address: str, gateway: FakeGateway) -> None:
    gateway.explanations[NAME] = waterfall()
    assert await command(address, "explain", NAME) == Outcome(0, TEXT, "")


async def test_a_waterfall_can_be_json_and_a_perfetto_trace(address: str, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.explanations[NAME] = waterfall()
    file = tmp_path / "trace.json"
    outcome = await command(address, "explain", NAME, "--json", "--perfetto", str(file))
    explained = json.loads(outcome.out)
    assert (explained["started"], explained["ended"]) == ("2023-11-14T22:13:20+00:00", None)
    assert explained["calls"][2]["drift"]["lost_tokens"] == 1200
    check_trace(json.loads(file.read_text()))


async def test_a_trace_that_cannot_be_written_is_told(address: str, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.explanations[NAME] = waterfall()
    file = tmp_path / "absent" / "trace.json"
    outcome = await command(address, "explain", NAME, "--perfetto", str(file))
    assert outcome == Outcome(1, "", f"legato: {file}: No such file or directory\n")


async def test_without_a_workflow_service_the_command_says_so(address: str, gateway: FakeGateway) -> None:
    gateway.refusal = Failure(Reason.NO_WORKFLOW, "no workflow service answers")
    assert await command(address, "explain", NAME) == Outcome(1, "", "legato: no workflow service answers\n")


def test_drifts_are_told_in_words() -> None:
    assert change(waterfall(), "edited", "t") == "the tools changed or were reordered since call plan"
    assert change(waterfall(), "stripped", "a") == (
        "message 1, an output, came back otherwise than it was, or without its reasoning"
    )
    assert change(waterfall(), "inserted", "u") == "message 1 (user) was inserted since call plan"


def test_misses_are_told_in_words() -> None:
    response = waterfall()
    said: list[str] = []
    for cause in ("evicted", "moved", "worker_lost"):
        response.calls[2].cache.cause, response.calls[2].cache.by_program = cause, ""
        said += [line.strip() for line in lines_of(explanation_of(response)) if "miss:" in line]
    had = "miss: 4,096 tokens that its program had on w1"
    whys = ("were evicted", "are still there: another worker was chosen", "went with that worker")
    assert said == [f"{had} {why}" for why in whys]


def test_a_program_without_calls_is_a_heading() -> None:
    lines = lines_of(explanation_of(workflow_pb2.ExplainResponse(program_id="p", ended=1.0)))
    assert lines[0] == "program p, ended, 0.00s, 0 calls"


def test_gaps_are_the_clients_where_no_tool_ran_or_was_asked_for() -> None:
    response = waterfall()
    del response.tools[:]
    del response.calls[0].tools[:]
    explanation = explanation_of(response)
    assert [explanation.gap(call).tools for call in explanation.calls[2:]] == [(), ()]
    assert "client 5.00s" in lines_of(explanation)[2]


def test_calls_of_a_thread_that_overlap_have_tracks_of_their_own() -> None:
    calls = [call("a", 0, 4), call("b", 2, 4), call("c", 4, 1)]
    trace = trace_of([explanation_of(workflow_pb2.ExplainResponse(program_id="p", calls=calls))])
    check_trace(trace)
    tracks = {event["args"]["call"]: event["tid"] for event in trace["traceEvents"] if event.get("cat") == "call"}
    assert tracks["a"] == tracks["c"] != tracks["b"]


TIMES = st.floats(0, 1e4)


@st.composite
def programs(draw: st.DrawFn) -> Explanation:
    def calls() -> ExplainedCall:
        began, gap, seconds, queued, paused, prefill, decode = (draw(TIMES) for _ in range(7))
        running = draw(st.booleans())
        return ExplainedCall(
            call_id=f"{began}",
            agent="",
            thread=draw(st.sampled_from(["", "x"])),
            step="",
            began=began,
            seconds=0.0 if running else seconds,
            outcome="running" if running else "stop",
            error="",
            usage=Usage(),
            timings=Timings(queued, prefill, decode),
            worker_id="",
            parents=(),
            critical=draw(st.booleans()),
            gap_seconds=min(gap, began),
            tools=(),
            cache=legato.CacheNote(0, 0, "", "", "", paused),
        )

    def tools() -> ExplainedTool:
        return ExplainedTool("grep", "", draw(TIMES), draw(TIMES), failed=False, call_id="")

    return Explanation(
        program_id="p",
        tenant="",
        workflow="",
        started=datetime.fromtimestamp(1_700_000_000 + draw(TIMES), UTC),
        ended=None,
        calls=tuple(calls() for _ in range(draw(st.integers(0, 5)))),
        tools=tuple(tools() for _ in range(draw(st.integers(0, 3)))),
    )


@given(st.lists(programs(), max_size=3))
def test_whatever_happened_text_fits_and_slices_nest(explanations: list[Explanation]) -> None:
    for explanation in explanations:
        assert all(len(line) <= 120 for line in lines_of(explanation))
    check_trace(trace_of(explanations))


def check_trace(trace: dict[str, Any]) -> None:
    """As Chrome's trace event format asks: complete events and metadata; slices of a track nest."""
    events = json.loads(json.dumps(trace))["traceEvents"]
    named = {(event["pid"], event["tid"]) for event in events if event["ph"] == "M" and event["name"] == "thread_name"}
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events:
        assert event["ph"] in ("X", "M")
        assert all(isinstance(event[name], int) and event[name] >= 0 for name in ("ts", "pid", "tid"))
        if event["ph"] == "X":
            assert event["name"]
            assert event["dur"] >= 0
            tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert set(tracks) <= named
    for spans in tracks.values():
        open_until: list[int] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)

"""A program's waterfall as the cluster would tell it: a plan, two branches of which one is slow, a join that runs."""

from legato.v1 import call_pb2, workflow_pb2

NAME = "fix-issue-42"


def call(
    call_id: str, began: float, seconds: float, agent: str = "", thread: str = "", **more: object
) -> workflow_pb2.ExplainedCall:
    """Timings are a quarter queue and prefill each, the rest is decode."""
    identity = call_pb2.CallIdentity(program_id=NAME, call_id=call_id, agent=agent, thread=thread)
    explained = workflow_pb2.ExplainedCall(identity=identity, began=began, seconds=seconds, **more)  # pyright: ignore[reportArgumentType]
    if seconds:
        explained.reason = explained.reason or call_pb2.FINISH_REASON_STOP
        explained.timings.queue_seconds = explained.timings.prefill_seconds = seconds / 4
        explained.timings.decode_seconds = seconds / 2
    return explained


def waterfall() -> workflow_pb2.ExplainResponse:
    evicted = workflow_pb2.CacheNote(
        expected_tokens=64, lost_tokens=4096, cause="evicted", worker_id="w1", by_program="other", paused_seconds=1.0
    )
    drift = workflow_pb2.PromptDrift(
        call_id="plan", message=1, role="s", kind="edited", lost_tokens=1200, lost_seconds=0.24
    )
    slow = call(
        "slow", 3.0, 8.0, "coder", "b", parents=["plan"], critical=True, gap_seconds=1.0, cache=evicted, drift=drift
    )
    slow.usage.prompt_tokens, slow.usage.cached_tokens = 8192, 2048
    tool = workflow_pb2.ExplainedTool(tool="pytest", agent="coder", began=11.0, seconds=3.0, call_id="slow")
    return workflow_pb2.ExplainResponse(
        program_id=NAME,
        tenant="acme",
        workflow="code-review",
        started=1_700_000_000,
        calls=[
            call("plan", 0.0, 2.0, "planner", critical=True, tools=["read"]),
            call("fast", 2.0, 1.0, "coder", "a", parents=["plan"], error="ENGINE_DEAD"),
            slow,
            call("join", 15.0, 0.0, "planner", parents=["fast", "slow"], critical=True, gap_seconds=4.0),
        ],
        tools=[tool],
        eta=call_pb2.Eta(expected_seconds=9, low_seconds=3, high_seconds=20),
        num_forgotten=2,
    )

"""`python -m bench.call_events`: entries of the call log that a workflow service learns from in a second, on one core.

Recorded programs as a gateway would have logged them (bench/forecast/sets.py), in batches as they lie in the store.
Measured is what the service does with them (services/workflow/service.py), in CPU time: decode, learn, keep what may
be asked for, and after as many entries as it takes at once encode what is foreseen, for one watcher. Recorded time runs
too fast for the board, whose clock stands still: all that is foreseen is fresh, as it is where time is real. With many
programs at once more forecasts are sent than here, one for most entries: that costs some 6 us each. Needs
../shared/traces.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from bench.forecast import sets
from legato.v1 import call_pb2, workflow_pb2
from services.common.call_log import batches
from services.workflow.board import Board
from services.workflow.core import Core
from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver, ToolRan
from services.workflow.learner import AT_ONCE, Learner
from services.workflow.recent import Recent
from services.workflow.translation import event_of

_DEFAULT = ("weka_claude_code", "tau2_sierra", "chatdev_warehouse", "agentcgroup_claude_code")


def entry_of(at: float, event: Event) -> workflow_pb2.LogEntry:
    """As a gateway writes it."""
    match event:
        case CallBegan():
            identity = call_pb2.CallIdentity(
                program_id=event.program_id,
                call_id=event.call_id,
                tenant=event.tenant,
                agent=event.agent,
                thread=event.thread,
                step=event.step,
                parents=event.parents,
                workflow=event.workflow,
            )
            began = workflow_pb2.CallBegan(
                identity=identity,
                model=event.model,
                prompt_tokens=event.prompt_tokens,
                messages=event.messages,
                message_tokens=event.message_tokens,
                roles=event.roles,
            )
            return workflow_pb2.LogEntry(at=at, began=began)
        case CallEnded():
            ended = workflow_pb2.CallEnded(
                program_id=event.program_id,
                call_id=event.call_id,
                reason=call_pb2.FINISH_REASON_STOP if event.completed else call_pb2.FINISH_REASON_ABORT,
                usage=call_pb2.Usage(prompt_tokens=event.prompt_tokens, completion_tokens=event.output_tokens),
                engine_seconds=event.engine_seconds,
                output=event.output,
                tools=event.tools,
            )
            return workflow_pb2.LogEntry(at=at, ended=ended)
        case ToolRan():
            tool = workflow_pb2.ToolRan(
                program_id=event.program_id, agent=event.agent, tool=event.tool, seconds=event.seconds
            )
            return workflow_pb2.LogEntry(at=at, tool=tool)
        case ProgramOver():
            return workflow_pb2.LogEntry(at=at, over=workflow_pb2.ProgramOver(program_id=event.program_id))


class _Whole:
    """The service's inner loop, and the seconds of its parts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.board = Board(lambda: 0.0)
        self.learner = Learner(Core, self.board, Recent(), lambda: self.now)
        self.num_forecasts = 0

    def run(self, written: Sequence[bytes]) -> float:
        """Seconds for all of it."""
        began = time.process_time()
        with self.board.watching() as watcher:
            for data in written:
                entries = workflow_pb2.ReadLogResponse.FromString(data).entries
                for start in range(0, len(entries), AT_ONCE):
                    some = entries[start : start + AT_ONCE]
                    self.now = max(self.now, *(entry.at for entry in some))
                    self.learner.take(some)
                    response = watcher.batch()
                    response.SerializeToString()
                    self.num_forecasts += len(response.forecasts)
        return time.process_time() - began


def _decoding(written: Sequence[bytes]) -> float:
    """Seconds to decode."""
    began = time.process_time()
    for data in written:
        for entry in workflow_pb2.ReadLogResponse.FromString(data).entries:
            event_of(entry)
    return time.process_time() - began


def _foreseeing(log: Sequence[tuple[float, Event]]) -> float:
    """Seconds for the core alone."""
    core = Core()
    began = time.process_time()
    for at, event in log:
        core.handle(event, at)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.call_events", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sets", nargs="*", default=list(_DEFAULT))
    parser.add_argument("--entries", type=int, default=40_000, help="of each set, at most")
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    arguments = parser.parse_args()
    known = {each.name: each for each in sets.SETS}
    print("| set | entries | messages a call | us an entry | entries/s | core alone | decoding alone | forecasts |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.sets:
        log, _ = sets.log(sets.programs(known[name], arguments.traces), seed=1, declared=False)
        log = log[: arguments.entries]
        written = [batch.SerializeToString() for batch in batches(entry_of(at, event) for at, event in log)]
        whole = _Whole()
        seconds = whole.run(written)
        lengths = [len(event.messages) for _, event in log if isinstance(event, CallBegan)]
        micros = 1e6 / len(log)
        print(
            f"| {name} | {len(log)} | {sum(lengths) / len(lengths):.0f} | {seconds * micros:.0f} "
            f"| {len(log) / seconds:.0f} | {_foreseeing(log) * micros:.0f} us | {_decoding(written) * micros:.0f} us "
            f"| {whole.num_forecasts} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

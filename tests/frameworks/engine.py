"""The simulated engine as a model that uses its tools: each of them once, in order, before it answers a question.

The engine itself calls a tool only when it is told to, so a call that leaves the choice to the model is told here, by
what its prompt says: how many tools have answered since the last question.
"""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from legato.v1 import call_pb2, worker_pb2
from services.worker.config import WorkerSection
from services.worker.engine import EngineCall
from services.worker.simulated.config import SimulatedSection
from services.worker.simulated.engine import SimulatedEngine

QUESTION = "Question:"
"""What agents' questions begin with."""
_ANSWERED = "<tool_response>"
"""What the tiny model's template puts before what a tool gave."""


class ToolUser(SimulatedEngine):
    """Calls the first tool, then the second, and so on, then says something."""

    def __init__(self, worker: WorkerSection, simulated: SimulatedSection) -> None:
        super().__init__(worker, simulated)
        self._tokenizer = Tokenizer.from_file(str(Path(worker.model_path) / "tokenizer.json"))

    def submit(self, call: EngineCall) -> None:
        start = call.start
        if start.tools and start.tool_choice.mode in (
            call_pb2.ToolChoice.MODE_UNSPECIFIED,
            call_pb2.ToolChoice.MODE_AUTO,
        ):
            prompt = self._tokenizer.decode(list(start.prompt_token_ids), skip_special_tokens=False)
            answered = prompt.rpartition(QUESTION)[2].count(_ANSWERED)
            if answered < len(start.tools):
                call = replace(call, start=_told(start, start.tools[answered].name))
        super().submit(call)


def _told(start: worker_pb2.StartCall, tool: str) -> worker_pb2.StartCall:
    told = worker_pb2.StartCall()
    told.CopyFrom(start)
    told.tool_choice.CopyFrom(call_pb2.ToolChoice(mode=call_pb2.ToolChoice.MODE_NAMED, name=tool))
    return told

"""What came of a call's output so far: with it another gateway goes on where the lost one was."""

from legato.errors import InternalError
from legato.v1 import gateway_pb2


class Received:
    """Of one call, over all gateways that it had."""

    def __init__(self) -> None:
        self._resume = gateway_pb2.Resume()
        self._num_tokens = 0
        self._num_unnamed = 0
        """Events with output of which nobody said which tokens it is: an older gateway's."""

    @property
    def resumable(self) -> bool:
        """Whether another gateway can be told what came, if anything did."""
        return not self._num_unnamed

    def add(self, event: gateway_pb2.ChatResponse) -> None:
        """The next event. Raises InternalError for one that does not follow what came before."""
        known = event.token_ids or self._resume.token_ids
        if event.num_tokens and known and event.offset != self._num_tokens:
            where = f"token {event.offset} where {self._num_tokens} was next"
            raise InternalError(f"the gateway sent {where}")
        self._resume.token_ids.extend(event.token_ids)
        self._resume.num_chars += len(event.text)
        self._num_tokens += event.num_tokens
        shown = event.text or event.reasoning or event.tool_calls
        self._num_unnamed += len(self._resume.token_ids) != self._num_tokens or bool(shown and not self._num_tokens)
        if event.HasField("seed"):
            self._resume.seed = event.seed

    def ask(self, request: gateway_pb2.ChatRequest) -> None:
        """Have the request ask for what follows."""
        if self._resume.token_ids:
            request.resume.CopyFrom(self._resume)

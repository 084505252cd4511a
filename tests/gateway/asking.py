"""Chats, and whose calls the gateway took them for."""

from typing import Any

from legato.v1 import call_pb2
from tests.gateway.conftest import World

CHAT = "/v1/chat/completions"


def chat(*messages: str, **fields: Any) -> dict[str, Any]:
    """A conversation of user and assistant in turn."""
    roles = ("user", "assistant")
    said = [{"role": roles[index % 2], "content": text} for index, text in enumerate(messages or ("hello",))]
    return {"model": "tiny", "messages": said, **fields}


async def asked(
    world: World, headers: dict[str, str] | None = None, body: dict[str, Any] | None = None, root: str = ""
) -> tuple[str, call_pb2.CallIdentity, str]:
    """One call: its program as the caller is told, its identity as the scheduler hears it, and who recognised it."""
    async with world.http.post(root + CHAT, json=body or chat(), headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.read()
    identity = world.scheduler.said("submit")[-1].identity
    told = response.headers["x-legato-program-id"]
    assert told == identity.program_id
    assert identity.call_id.startswith(response.headers["x-legato-call-id"])
    return told, identity, response.headers["x-legato-identity-source"]

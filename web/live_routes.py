"""What is being answered now, as server-sent events.

A worker tells of its own requests alone.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from web.keys import check_log_key
from web.state import Request

LOOK_SECONDS = 0.5
"""How often is looked for what is new."""

PROMPT_LENGTH = 200

# not in OpenAPI: what calls everything that is documented would wait for the end of this
router = APIRouter(dependencies=[Depends(check_log_key)], include_in_schema=False)


@router.get("/log/live", response_class=EventSourceResponse)
async def watch_requests(request: Request) -> AsyncIterator[ServerSentEvent]:
    """Tell of requests that are being answered: `started`, `progress` with the tokens so far, and
    `ended` once the entry is in the log; at first of all that have started."""
    recorder = request.state["recorder"]
    keeps_texts = request.state["settings"].log_content == "full"
    connection = request.scope["state"].get("connection")
    told: dict[str, int] = {}
    while not (connection and connection.is_stopping):
        current = dict(recorder.recordings)
        for id, recording in current.items():
            if id not in told:
                shorten_prompt = recording.request.shorten_prompt
                began: dict[str, object] = {
                    "id": id,
                    "started_at": recording.started_at,
                    "endpoint": recording.endpoint,
                    "model": recording.request.model,
                    "prompt": shorten_prompt(PROMPT_LENGTH) if keeps_texts else None,
                    "client": recording.client.address,
                    "user_agent": recording.client.user_agent,
                }
                yield ServerSentEvent(event="started", data=began)
            if (tokens := recording.tokens) != told.get(id, 0):
                yield ServerSentEvent(event="progress", data={"id": id, "tokens": tokens})
            told[id] = tokens
        for id in told.keys() - current.keys():
            del told[id]
            yield ServerSentEvent(event="ended", data={"id": id})
        await asyncio.sleep(LOOK_SECONDS)

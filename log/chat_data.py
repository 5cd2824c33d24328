"""Entries as chat data: the messages of a request with its answer, for training and evaluation.

The form is OpenAI's, which the tools for both read
(https://platform.openai.com/docs/guides/supervised-fine-tuning).
"""

import json
from collections.abc import Iterable
from typing import Any

from protocols.json_reading import fold_keys
from protocols.turns import Turn, read_turns

Message = dict[str, Any]


def make_messages(entry: dict[str, Any]) -> list[Message] | None:
    """Return the messages of a complete answer and what led to it; None for another entry."""
    response, calls = entry.get("response"), entry.get("tool_calls")
    calls = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    if entry.get("status") != "ok" or not (response or calls):
        return None
    request = entry.get("request")
    body = fold_keys(request) if isinstance(request, dict) else {}
    turns = read_turns(body.get("messages")) or read_turns(body.get("input"))
    turns = turns or read_turns(entry.get("prompt"))
    system = entry.get("system")
    if system and not any(turn.role == "system" for turn in turns):
        turns.insert(0, Turn("system", [str(system)]))
    answer = Turn("assistant", [str(response)] * bool(response), calls)
    return [encode_turn(turn) for turn in join_answers([*turns, answer])]


def join_answers(turns: Iterable[Turn]) -> list[Turn]:
    """Return the turns with what an assistant says in several of them as one."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and turn.role == joined[-1].role == "assistant":
            joined[-1].texts += turn.texts
            joined[-1].tool_calls += turn.tool_calls
        else:
            joined.append(turn)
    return joined


def encode_turn(turn: Turn) -> Message:
    """Return a turn as a message."""
    message: Message = {"role": turn.role, "content": turn.text}
    if turn.media:
        text = [{"type": "text", "text": turn.text}] if turn.texts else []
        message["content"] = text + turn.media
    if turn.role == "tool":
        return {**message, "tool_call_id": turn.tool_call_id}
    if turn.tool_calls:
        message["content"] = turn.text or None
        message["tool_calls"] = [encode_call(call) for call in turn.tool_calls]
    return message


def encode_call(call: dict[str, Any]) -> Message:
    """Return a tool call of the log as a message has it."""
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    function = {"name": call.get("name"), "arguments": arguments}
    return {"id": call.get("id"), "type": "function", "function": function}

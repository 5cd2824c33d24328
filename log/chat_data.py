"""Entries as chat data: the messages of a request with its answer, for training and evaluation.

The form is OpenAI's, which the tools for both read
(https://platform.openai.com/docs/guides/supervised-fine-tuning).
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from protocols.anthropic import Messages
from protocols.base import joined_text
from protocols.json_reading import fold_keys, parse_leniently
from protocols.native import Native
from protocols.openai import ChatCompletions, Responses
from protocols.turns import Turn, read_turns

Message = dict[str, Any]

PROTOCOLS = (Native(), ChatCompletions(), Responses(), Messages())
ENDPOINTS = {"/generate", "/stream"}
ENDPOINTS |= {endpoint.path for protocol in PROTOCOLS for endpoint in protocol.endpoints}
"""Where texts are answered with a text; not with a picture or a vector."""


def make_messages(entry: dict[str, Any]) -> list[Message] | None:
    """Return the messages of a complete answer and what led to it; None for another entry."""
    response, calls = entry.get("response"), entry.get("tool_calls")
    calls = [{**call} for call in calls if isinstance(call, dict)] if calls else []
    if entry.get("status") != "ok" or not (response or calls):
        return None
    body = read_body(entry.get("request"))
    if entry.get("endpoint") not in ENDPOINTS or has_no_single_answer(entry, body):
        return None
    turns = [turn for turn in read_conversation(entry, body) if says_something(turn)]
    if not any(turn.role == "user" for turn in turns):
        return None  # a body that could not be read
    answer = Turn("assistant", [str(response)] * bool(response), calls)
    turns = join_answers([*turns, *filter(says_something, split_results(answer))])
    relate_results(turns)
    return [encode_turn(turn) for turn in turns]


def read_body(request: object) -> dict[str, Any]:
    """Return a request's body; one that is no plain JSON stands in the log as a text."""
    if isinstance(request, str):
        with suppress(ValueError):
            request = parse_leniently(request.encode(errors="replace"))
    return fold_keys(request) if isinstance(request, dict) else {}


def has_no_single_answer(entry: dict[str, Any], body: dict[str, Any]) -> bool:
    """Return whether an entry has several answers, which stand in it as one text, or none."""
    options = entry.get("options")
    count = options.get("n") if isinstance(options, dict) else None
    return count not in (None, 1) or bool(body.get("_debug_render_only"))


def read_conversation(entry: dict[str, Any], body: dict[str, Any]) -> list[Turn]:
    """Return what was said before the answer."""
    turns = read_turns(body.get("messages")) or read_turns(body.get("input"))
    system = joined_text(body.get("system")) or joined_text(body.get("instructions"))
    if not turns:
        prompt = {"role": "user", "content": entry.get("prompt"), "images": body.get("images")}
        turns = read_turns([prompt])
        system = entry.get("system")
    return [Turn("system", [str(system)]), *turns] if system else turns


def says_something(turn: Turn) -> bool:
    """Return whether a turn is not empty."""
    return bool(turn.texts or turn.tool_calls or turn.media)


def split_results(answer: Turn) -> list[Turn]:
    """Return an answer as several turns where Ollama itself has called tools on the way."""
    called = [call for call in answer.tool_calls if "result" in call]
    if not called:
        return [answer]
    others = [call for call in answer.tool_calls if "result" not in call]
    results = [
        Turn("tool", [json.dumps(call.pop("result"))], tool_call_id=call.get("id"))
        for call in called
    ]
    return [Turn("assistant", tool_calls=called), *results, Turn("assistant", answer.texts, others)]


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


def relate_results(turns: list[Turn]) -> None:
    """Give each tool call an id, and each result that of its call.

    Ollama's own interface has no ids; there a result names the tool, or only follows.
    """
    waiting: list[dict[str, Any]] = []
    count = 0
    for turn in turns:
        for call in turn.tool_calls:
            count += 1
            call["id"] = call.get("id") or f"call_{count}"
            waiting.append(call)
        if turn.role == "tool" and waiting:
            by_id = [call for call in waiting if call["id"] == turn.tool_call_id]
            by_name = [call for call in waiting if call.get("name") == turn.tool_call_id]
            call = (by_id or by_name or waiting)[0]
            waiting.remove(call)
            turn.tool_call_id = call["id"]


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
    function = {"name": call.get("name"), "arguments": encode_arguments(call.get("arguments"))}
    return {"id": call.get("id"), "type": "function", "function": function}


def encode_arguments(arguments: Any) -> str:
    """Return the arguments of a call as JSON; those of a custom tool are any text."""
    if isinstance(arguments, str) and arguments:
        with suppress(ValueError, RecursionError):
            if isinstance(json.loads(arguments), dict):
                return arguments
        arguments = {"input": arguments}
    return json.dumps(arguments or {}, ensure_ascii=False)

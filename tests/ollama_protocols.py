"""A model's reply in each of Ollama's protocols, shaped as a real one's answers are on the wire.

Two things are finer than a real Ollama's, and allowed by the protocols: the arguments of a call
come in two pieces, and one call follows another. All is the same each time, so that answers can
be compared.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
Pieces = Iterator[bytes]

TEXT = ("The", " sky", " is", " blue", ": ", "“¡größer", " ☀ <b>", " 🌍”", ".")
THOUGHTS = ("Let", " me", " think")
JSON_TEXT = ('{"colour"', ": ", '"blue"}')
CALLS: list[Body] = [
    {"id": "call_k3zrzy2n", "name": "get_weather", "arguments": {"city": "Köln"}},
    {"id": "call_q9wsa2yu", "name": "get_time", "arguments": {"zone": "UTC", "seconds": True}},
]
PROMPT_TOKENS, RESPONSE_TOKENS = 26, 12
TIME, EPOCH = "2026-11-23T05:33:52.64422406Z", 1795412032


def go(value: Any) -> bytes:
    """Return JSON as Go's encoder writes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&"}).encode()


@dataclass(frozen=True)
class Reply:
    """What the model makes of a request."""

    text: tuple[str, ...] = TEXT
    thinking: tuple[str, ...] = ()
    calls: tuple[Body, ...] = ()

    @classmethod
    def to(cls, body: Body) -> "Reply":
        """Return what the body asks for, in whichever protocol's words."""
        thinks = body.get("think") or body.get("reasoning_effort") or body.get("reasoning")
        thinks = thinks or body.get("thinking", {}).get("type") == "enabled"
        formats = (body.get("format"), body.get("response_format"), body.get("text"))
        text = JSON_TEXT if any(formats) else TEXT
        calls = tuple(CALLS) if body.get("tools") else ()
        return cls(() if calls else text, THOUGHTS if thinks else (), calls)


def halves(call: Body) -> tuple[str, str]:
    """Return the arguments as JSON text, in two pieces."""
    text = go(call["arguments"]).decode()
    return text[:7], text[7:]


def native(body: Body, reply: Reply, *, chat: bool, whole: bool = False) -> Pieces:
    """Yield the lines of `/api/generate` and `/api/chat`, or all of them as one object."""

    def line(text: str = "", thinking: str = "", calls: Any = None, **last: Any) -> bytes:
        said: Body = {"thinking": thinking} if thinking else {}
        if calls:
            said["tool_calls"] = [
                {
                    "id": c["id"],
                    "function": {"index": i, **{k: c[k] for k in ("name", "arguments")}},
                }
                for i, c in enumerate(reply.calls)
            ]
        message = {"message": {"role": "assistant", "content": text, **said}}
        fields = message if chat else {"response": text, **said}
        head = {"model": body["model"], "created_at": TIME}
        return go({**head, **fields, "done": bool(last), **last})

    last: Body = {"done": True, "done_reason": "stop", "total_duration": 55733660}
    last |= {"prompt_eval_count": PROMPT_TOKENS, "eval_count": RESPONSE_TOKENS}
    if not body.get("messages" if chat else "prompt"):
        yield line(done=True, done_reason="load")
    elif whole:
        yield line("".join(reply.text), "".join(reply.thinking), reply.calls, **last)
    else:
        yield from (line(thinking=text) + b"\n" for text in reply.thinking)
        yield from (line(text) + b"\n" for text in reply.text)
        if reply.calls:
            yield line(calls=reply.calls) + b"\n"
        yield line(**last) + b"\n"


def completions(body: Body, reply: Reply, *, chat: bool, whole: bool = False) -> Pieces:
    """Yield the events of `/v1/chat/completions` and `/v1/completions`, or the one object."""
    total = PROMPT_TOKENS + RESPONSE_TOKENS
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": RESPONSE_TOKENS}
    usage["total_tokens"] = total
    kind = "chat.completion" if chat else "text_completion"
    head = {"id": "chatcmpl-542" if chat else "cmpl-808", "object": kind, "created": EPOCH}
    head |= {"model": body["model"], "system_fingerprint": "fp_ollama"}
    reason = "tool_calls" if reply.calls else "stop"
    asks_usage = body.get("stream_options", {}).get("include_usage")
    zeros = {"usage": dict.fromkeys(usage, 0)} if asks_usage and not chat else {}

    def call(index: int, arguments: str, **first: Any) -> Body:
        return {"index": index, **first, "function": {"arguments": arguments}}

    def event(delta: Any, reason: str | None = None) -> bytes:
        said = {"delta": delta} if chat else {"text": delta}
        choice = {"index": 0, **said, "finish_reason": reason}
        kind = {"object": "chat.completion.chunk"} if chat else {}
        return b"data: " + go({**head, **kind, "choices": [choice], **zeros}) + b"\n\n"

    def deltas() -> Iterator[Body]:
        yield from ({"content": "", "reasoning": text} for text in reply.thinking)
        yield from ({"content": text} for text in reply.text)
        for index, entry in enumerate(reply.calls):
            first, second = halves(entry)
            start = call(index, first, id=entry["id"], type="function")
            start["function"] = {"name": entry["name"], **start["function"]}
            yield {"content": "", "tool_calls": [start]}
            yield {"content": "", "tool_calls": [call(index, second)]}

    if whole:
        said: Body = {"role": "assistant", "content": "".join(reply.text)}
        said |= {"reasoning": "".join(reply.thinking)} if reply.thinking else {}
        if reply.calls:
            said["tool_calls"] = [
                {**call(i, ""), "id": c["id"], "type": "function"}
                | {"function": {"name": c["name"], "arguments": "".join(halves(c))}}
                for i, c in enumerate(reply.calls)
            ]
        choice = {"message": said} if chat else {"text": said["content"]}
        yield go(
            {**head, "choices": [{"index": 0, **choice, "finish_reason": reason}]}
            | {"usage": usage}
        )
        return
    for number, delta in enumerate(deltas()):
        first_role = {"role": "assistant"} if number == 0 else {}
        yield event({**first_role, **delta} if chat else delta["content"])
    end = event({} if chat else "", reason)
    if asks_usage:
        kind_of_chunk = {"object": "chat.completion.chunk"} if chat else {}
        end += b"data: " + go({**head, **kind_of_chunk, "choices": [], "usage": usage}) + b"\n\n"
    yield end + b"data: [DONE]\n\n"


def responses(body: Body, reply: Reply, *, whole: bool = False) -> Pieces:
    """Yield the events of `/v1/responses`, or the one object."""
    number = iter(range(10_000))

    def event(kind: str, **fields: Any) -> bytes:
        data = {**fields, "sequence_number": next(number), "type": kind}
        return f"event: {kind}\n".encode() + b"data: " + go(dict(sorted(data.items()))) + b"\n\n"

    def response(status: str, output: list[Body], **fields: Any) -> Body:
        known: Body = {
            "id": "resp_704849",
            "object": "response",
            "created_at": EPOCH,
            "error": None,
        }
        known |= {"model": body["model"], "status": status, "incomplete_details": None}
        known |= {"instructions": body.get("instructions"), "metadata": {}, "output": output}
        known |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": None}
        return {**known, "temperature": 1, "top_p": 1, "truncation": "disabled", **fields}

    text, thinking = "".join(reply.text), "".join(reply.thinking)
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": "msg_737412", "type": "message", "status": "completed", "role": "assistant"}
    reasoning: Body = {"id": "rs_149383", "type": "reasoning"}
    items: list[Body] = []
    if thinking:
        summary = [{"type": "summary_text", "text": thinking}]
        items.append({**reasoning, "summary": summary, "encrypted_content": thinking})
    if text:
        items.append({**message, "content": [part]})
    for index, call in enumerate(reply.calls):
        known = {"id": f"fc_864733_{index}", "type": "function_call", "status": "completed"}
        known |= {"call_id": call["id"], "name": call["name"]}
        items.append({**known, "arguments": "".join(halves(call))})
    usage = {"input_tokens": PROMPT_TOKENS, "input_tokens_details": {"cached_tokens": 0}}
    usage |= {"output_tokens": RESPONSE_TOKENS, "output_tokens_details": {"reasoning_tokens": 0}}
    usage["total_tokens"] = PROMPT_TOKENS + RESPONSE_TOKENS
    complete = response("completed", items, completed_at=EPOCH, usage=usage)
    if whole:
        yield go(complete)
        return
    yield event("response.created", response=response("in_progress", []))
    yield event("response.in_progress", response=response("in_progress", []))
    for index, item in enumerate(items):
        at = {"item_id": item["id"], "output_index": index}
        yield from item_events(event, item, at, reply, part)
        yield event("response.output_item.done", item=item, output_index=index)
    yield event("response.completed", response=complete)


def item_events(
    event: Callable[..., bytes], item: Body, at: Body, reply: Reply, part: Body
) -> Pieces:
    """Yield what `/v1/responses` says of one item of its output, up to its last event."""
    index, kind = at["output_index"], item["type"]
    started: Body = {"reasoning": {"summary": []}, "message": {"content": []}}.get(kind, {})
    started = {**item, **(started or {"arguments": ""}), "status": "in_progress"}
    yield event("response.output_item.added", item=started, output_index=index)
    if kind == "reasoning":
        name, at = "response.reasoning_summary_text", {**at, "summary_index": 0}
        yield from (event(f"{name}.delta", delta=text, **at) for text in reply.thinking)
        yield event(f"{name}.done", text="".join(reply.thinking), **at)
    elif kind == "message":
        at = {**at, "content_index": 0}
        yield event("response.content_part.added", part={**part, "text": ""}, **at)
        for text in reply.text:
            yield event("response.output_text.delta", delta=text, logprobs=[], **at)
        yield event("response.output_text.done", text=part["text"], logprobs=[], **at)
        yield event("response.content_part.done", part=part, **at)
    else:
        (call,) = (call for call in reply.calls if call["id"] == item["call_id"])
        name = "response.function_call_arguments"
        yield from (event(f"{name}.delta", delta=half, **at) for half in halves(call))
        yield event(f"{name}.done", arguments=item["arguments"], **at)


def messages(body: Body, reply: Reply, *, whole: bool = False) -> Pieces:
    """Yield the events of `/v1/messages`, or the one object."""

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\n".encode() + b"data: " + go({"type": kind, **fields}) + b"\n\n"

    def block(index: int, kind: Body, deltas: list[Body]) -> Pieces:
        yield event("content_block_start", index=index, content_block=kind)
        yield from (event("content_block_delta", index=index, delta=delta) for delta in deltas)
        yield event("content_block_stop", index=index)

    reason = "tool_use" if reply.calls else "end_turn"
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": RESPONSE_TOKENS}
    head = {"id": "msg_f24772f601f8683bea99b507", "type": "message", "role": "assistant"}
    head["model"] = body["model"]
    thinking = [{"type": "thinking_delta", "thinking": text} for text in reply.thinking]
    text = [{"type": "text_delta", "text": text} for text in reply.text]
    uses = [{"type": "tool_use", "id": c["id"], "name": c["name"]} for c in reply.calls]
    if whole:
        said: list[Body] = []
        if thinking:
            said.append({"type": "thinking", "thinking": "".join(reply.thinking)})
        if text:
            said.append({"type": "text", "text": "".join(reply.text)})
        said += [{**use, "input": c["arguments"]} for use, c in zip(uses, reply.calls, strict=True)]
        yield go({**head, "content": said, "stop_reason": reason, "usage": usage})
        return
    estimate = {"input_tokens": 8, "output_tokens": 0}
    yield event("message_start", message={**head, "content": [], "usage": estimate})
    blocks: list[tuple[Body, list[Body]]] = []
    if thinking:
        blocks.append(({"type": "thinking", "thinking": ""}, thinking))
    if text:
        blocks.append(({"type": "text", "text": ""}, text))
    for use, call in zip(uses, reply.calls, strict=True):
        pieces = [{"type": "input_json_delta", "partial_json": half} for half in halves(call)]
        blocks.append(({**use, "input": {}}, pieces))
    for index, (kind, deltas) in enumerate(blocks):
        yield from block(index, kind, deltas)
    yield event("message_delta", delta={"stop_reason": reason}, usage=usage)
    yield event("message_stop")

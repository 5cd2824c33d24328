"""What was said before: the messages of a request, in one form for all protocols.

Their shapes do not contradict each other, so one function reads all of them: Ollama's and OpenAI's
messages, Anthropic's with their parts, and the items of `/v1/responses`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import dropwhile, takewhile
from typing import Any

from protocols.json_reading import fold_keys

REMINDER = ("<system-reminder>", "</system-reminder>")
"""What coding agents put around texts that no user typed."""

THINKING = ("<think>", "</think>")
"""Around what a model thinks, where it was not told apart from the answer."""

COMPARED_LENGTH = 2**14
"""How many characters of a text, without its white space, tell conversations apart."""

SLICE_LENGTH = 2**12
WHITE_SPACE = dict.fromkeys(n for n in range(0x3001) if chr(n).isspace())


@dataclass
class Turn:
    """One message, or a part of one that stands for itself."""

    role: str
    """`system`, `user`, `assistant`, or `tool` for what a tool returned."""
    texts: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """The calls of an assistant, `{"id", "name", "arguments"}`."""
    tool_call_id: str | None = None
    """Which call a tool's result belongs to."""
    media: list[dict[str, Any]] = field(default_factory=list)
    """Its parts that are no text, as they were sent; pictures in OpenAI's form."""

    @property
    def text(self) -> str:
        """All of its texts; the pieces of an answer follow each other as they came."""
        return ("" if is_assistant(self) else "\n").join(self.texts)


@dataclass(frozen=True)
class Opening:
    """How a conversation began: what tells it apart from others."""

    question: str
    """What was asked before the first answer, without white space."""
    text: str = ""
    tool_calls: tuple[str, ...] = ()
    """The first answer; of a conversation that only begins, what was given of it."""
    is_complete: bool = False
    """Whether the first answer is in the request, not yet to come."""

    def identify(
        self, text: str = "", tool_calls: Iterable[dict[str, Any]] | None = None
    ) -> str | None:
        """Return the id of the conversation, of which the first answer may be this one; None if
        there is none.

        Entries of the same conversation have the same id, also if a client sends back its answer
        with other white space, without the thinking, or with other ids of the tool calls.
        """
        answer, calls = self.text, self.tool_calls
        if not self.is_complete:
            answer = (answer + strip_space(without_thinking(text)))[:COMPARED_LENGTH]
            calls += tuple(map(describe_call, tool_calls or ()))
        if not answer and not calls:
            return None
        if calls:  # some clients send back `content: null` beside them
            answer = ""
        told_apart = json.dumps([self.question, answer, calls])
        return sha256(told_apart.encode()).hexdigest()[:16]


def read_turns(messages: object) -> list[Turn]:
    """Return the turns of a request's `messages` or `input`; a text counts as the user's."""
    if isinstance(messages, str):
        return [Turn("user", [messages])]
    if not isinstance(messages, list):
        return []
    return [turn for each in messages if isinstance(each, dict) for turn in read_message(each)]


def read_message(message: dict[str, Any]) -> Iterator[Turn]:
    """Yield what a message says; results of tools, which Anthropic has in it, come first."""
    message = fold_keys(message)
    match message.get("type"):
        case "function_call" | "custom_tool_call" as kind:
            arguments = message.get("arguments" if kind == "function_call" else "input")
            call = tool_call(message.get("call_id"), message.get("name"), arguments)
            yield Turn("assistant", tool_calls=[call])
            return
        case "web_search_call":  # Ollama's own search
            action = message.get("action")
            query = action.get("query") if isinstance(action, dict) else None
            call = tool_call(message.get("id"), "web_search", {"query": query})
            yield Turn("assistant", tool_calls=[call])
            return
        case "function_call_output" | "custom_tool_call_output":
            result = message.get("output")
            yield Turn("tool", part_texts(result), tool_call_id=as_text(message.get("call_id")))
            return
    role = message.get("role")
    if not isinstance(role, str):
        return
    role = role.lower()
    turn = Turn("system" if role == "developer" else role)
    content = message.get("content")
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            turn.texts += [part] * bool(part)
        elif isinstance(part, dict):
            yield from read_part(fold_keys(part), turn)
    if role in ("tool", "function"):
        id = message.get("tool_call_id") or message.get("tool_name") or message.get("name")
        turn.role, turn.tool_call_id = "tool", as_text(id)
    turn.texts += part_texts(message.get("refusal"))
    if isinstance(images := message.get("images"), list):
        turn.media += [picture("image/png", image) for image in images]
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else [{"function": message.get("function_call")}]
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = function.get("arguments")
            turn.tool_calls.append(tool_call(call.get("id"), function.get("name"), arguments))
    yield turn


def read_part(part: dict[str, Any], turn: Turn) -> Iterator[Turn]:
    """Add a part to its turn; yield it as a turn of its own if it is what a tool returned."""
    match part.get("type"):
        case "tool_use" | "server_tool_use":
            turn.tool_calls.append(tool_call(part.get("id"), part.get("name"), part.get("input")))
        case "tool_result":
            content = part.get("content")
            parts = content if isinstance(content, list) else []
            media = [read_media(each) for each in parts if is_media(each)]
            id = as_text(part.get("tool_use_id"))
            yield Turn("tool", part_texts(content), tool_call_id=id, media=media)
        case "thinking" | "redacted_thinking" | "web_search_tool_result":
            pass
        case _:
            turn.texts += part_texts([part])
            source = part.get("source")
            if isinstance(source, dict) and source.get("type") == "text":
                turn.texts += part_texts(source.get("data"))
            elif is_media(part):
                turn.media.append(read_media(part))


def is_media(part: object) -> bool:
    """Return whether a part of a message is no text, but a picture, a sound or a file."""
    return isinstance(part, dict) and not {"text", "refusal"} & part.keys()


def read_media(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part that is no text in OpenAI's form of chats, as far as that is known."""
    source = part.get("source")
    if isinstance(source, dict) and "data" in source:
        return picture(source.get("media_type"), source["data"])
    url = source.get("url") if isinstance(source, dict) else part.get("image_url")
    if isinstance(url, str):
        return {"type": "image_url", "image_url": {"url": url}}
    return part


def picture(media_type: object, data: object) -> dict[str, Any]:
    """Return a picture, or a file of another type, as a part of a message, in OpenAI's form."""
    url = f"data:{media_type};base64,{data}"
    if str(media_type).startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def part_texts(content: object) -> list[str]:
    """Return a text, or the texts in a list of parts; none that is empty."""
    if isinstance(content, str):
        return [content] if content else []
    found = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            part = part.get("text") or part.get("refusal")
        if isinstance(part, str) and part:
            found.append(part)
    return found


def tool_call(id: object, name: object, arguments: object) -> dict[str, Any]:
    """Return a tool call as the log has it, its arguments as they were sent."""
    return {"id": as_text(id), "name": as_text(name), "arguments": arguments}


def as_text(value: object) -> str | None:
    """Return the value where it is a text."""
    return value if isinstance(value, str) else None


def is_reminder(text: str) -> bool:
    """Return whether a text is nothing but reminders of an agent to its model."""
    begin, end = REMINDER
    position = skip_space(text, 0)
    found = False
    while text.startswith(begin, position):
        found = True
        close = text.find(end, position)
        if close < 0:
            return False
        position = skip_space(text, close + len(end))
    return found and position == len(text)


def skip_space(text: str, position: int) -> int:
    """Return the position of the next character that is no white space."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def typed_texts(turn: Turn) -> list[str]:
    """Return what the user typed of a turn."""
    return [text for text in turn.texts if text.strip() and not is_reminder(text)]


def find_prompt(turns: list[Turn]) -> str | None:
    """Return what the user typed last; None if the user says nothing."""
    said = [turn for turn in turns if turn.role == "user" and turn.texts]
    for turn in reversed(said):
        if texts := typed_texts(turn):
            return "\n".join(texts)
    return said[-1].text if said else None


def find_opening(turns: list[Turn]) -> Opening | None:
    """Return how the conversation began; None if nothing was asked in it."""
    said = list(dropwhile(is_assistant, turns))  # a greeting that the client has put there
    before = list(takewhile(lambda turn: not is_assistant(turn), said))
    if not (question := describe_question(before)):
        return None
    rest = said[len(before) :]
    answer = list(takewhile(is_assistant, rest))
    texts = (without_thinking(text) for turn in answer for text in turn.texts)
    calls = (describe_call(call) for turn in answer for call in turn.tool_calls)
    is_complete = bool(answer) and len(answer) < len(rest)
    return Opening(question, strip_space(*texts), tuple(calls), is_complete)


def is_assistant(turn: Turn) -> bool:
    """Return whether a turn is the model's."""
    return turn.role == "assistant"


def describe_question(turns: list[Turn]) -> str:
    """Return what tells apart what was asked: the user's texts; without any, pictures; without
    these, the instructions."""
    asked = [turn for turn in turns if turn.role == "user"]
    return (
        strip_space(*(text for turn in asked for text in typed_texts(turn)))
        or strip_space(*(json.dumps(part) for turn in asked for part in turn.media))
        or strip_space(*(text for turn in turns if turn.role == "system" for text in turn.texts))
    )


def strip_space(*texts: str) -> str:
    """Return the beginning of the texts, one after the other, without white space."""
    found = ""
    for text in texts:
        for start in range(0, len(text), SLICE_LENGTH):
            if len(found) >= COMPARED_LENGTH:
                break
            found += text[start : start + SLICE_LENGTH].translate(WHITE_SPACE)
    return found[:COMPARED_LENGTH]


def without_thinking(text: str) -> str:
    """Return an answer without the thinking that some models put before it."""
    begin, end = THINKING
    if text.lstrip().startswith(begin) and end in text:
        return text.partition(end)[2]
    return text


def describe_call(call: dict[str, Any]) -> str:
    """Return a text that is the same for tool calls with equal names and arguments."""
    arguments = call.get("arguments") or {}
    try:
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        described = json.dumps(unify_numbers(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        described = strip_space(str(arguments))
    return f"{call.get('name')} {described}"


def unify_numbers(value: Any) -> Any:
    """Return JSON in which equal numbers are written alike: JavaScript sends 1.0 back as 1."""
    if isinstance(value, dict):
        return {key: unify_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [unify_numbers(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return str(value)
    return value

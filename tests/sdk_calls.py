"""Every call of the official Python SDKs that the tests make, by name.

The SDKs are imported where they are used: it takes two seconds, and every process of a test run
reads this module. Ollama's makes a client at once, by proxies that are the machine's until then.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tests.conftest import DEADLINE
from tests.ways import CITY, THINK, USAGE, ask

if TYPE_CHECKING:
    import anthropic as anthropic_sdk
    import ollama as ollama_sdk
    import openai as openai_sdk

Objects = list[dict[str, Any]]


class Answer(BaseModel):
    """What structured output is parsed into."""

    colour: str


def get_weather(city: str) -> str:
    """Tell the weather.

    Args:
      city: where
    """
    return city


FUNCTION = {"name": "get_weather", "description": "weather", "parameters": CITY}
OPENAI_TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}
RESPONSES_TOOLS = {"tools": [{"type": "function", "strict": False, **FUNCTION}]}
ANTHROPIC_TOOLS = {"tools": [{"name": "get_weather", "input_schema": CITY}]}


class Clients(ExitStack):
    """The SDKs' clients of one URL; they try nothing twice and load no certificates."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    @cached_property
    def ollama(self) -> "ollama_sdk.Client":
        """Ollama's own."""
        import ollama

        client: ollama.Client = self.enter_context(
            ollama.Client(self.url, timeout=DEADLINE, verify=False)
        )
        return client

    @cached_property
    def openai(self) -> "openai_sdk.OpenAI":
        """OpenAI's."""
        import openai

        return self.enter_context(
            openai.OpenAI(
                base_url=f"{self.url}/v1",
                api_key="k",
                max_retries=0,
                http_client=openai.DefaultHttpxClient(verify=False, timeout=DEADLINE),
            )
        )

    @cached_property
    def anthropic(self) -> "anthropic_sdk.Anthropic":
        """Anthropic's."""
        import anthropic

        return self.enter_context(
            anthropic.Anthropic(
                base_url=self.url,
                api_key="k",
                max_retries=0,
                http_client=anthropic.DefaultHttpxClient(verify=False, timeout=DEADLINE),
            )
        )


Call = Callable[[Clients], Any]


def error(name: str) -> type[Exception]:
    """Return an SDK's own exception by its full name."""
    module, _, kind = name.rpartition(".")
    found: type[Exception] = getattr(import_module(module), kind)
    return found


def objects(answer: Any) -> Objects:
    """Return an answer, or each piece of a stream, as plain data."""
    parts = [answer] if isinstance(answer, BaseModel) else answer
    return [part.model_dump(mode="json", warnings=False) for part in parts]


def run(call: Call, url: str) -> Objects:
    """Make a call, to its end."""
    with Clients(url) as to:
        return objects(call(to))


def generate(**more: Any) -> Call:
    """Ask with Ollama's client on `/api/generate`."""
    return lambda to: to.ollama.generate(**ask("/api/generate", **more))


def chat(**more: Any) -> Call:
    """Ask with Ollama's client on `/api/chat`."""
    return lambda to: to.ollama.chat(**ask("/api/chat", **more))


def chat_completion(**more: Any) -> Call:
    """Ask with OpenAI's client on `/v1/chat/completions`."""
    path = "/v1/chat/completions"
    return lambda to: to.openai.chat.completions.create(**ask(path, **more))


def completion(**more: Any) -> Call:
    """Ask with OpenAI's client on `/v1/completions`."""
    return lambda to: to.openai.completions.create(**ask("/v1/completions", **more))


def response(**more: Any) -> Call:
    """Ask with OpenAI's client on `/v1/responses`."""
    return lambda to: to.openai.responses.create(**ask("/v1/responses", **more))


def message(**more: Any) -> Call:
    """Ask with Anthropic's client on `/v1/messages`."""
    return lambda to: to.anthropic.messages.create(**ask("/v1/messages", **more))


def parsed_completion(to: Clients) -> Any:
    """Ask for structured output with the helper of `/v1/chat/completions`."""
    body = ask("/v1/chat/completions", response_format=Answer)
    return to.openai.chat.completions.parse(**body)


def streamed_completion(to: Clients) -> Any:
    """Let the SDK put the answer together from the stream of `/v1/chat/completions`."""
    body = ask("/v1/chat/completions", **OPENAI_TOOLS)
    with to.openai.chat.completions.stream(**body) as stream:
        yield from stream


def parsed_response(to: Clients) -> Any:
    """Ask for structured output with the helper of `/v1/responses`."""
    return to.openai.responses.parse(**ask("/v1/responses", text_format=Answer))


def streamed_response(to: Clients) -> Any:
    """Let the SDK put the answer together from the stream of `/v1/responses`."""
    with to.openai.responses.stream(**ask("/v1/responses")) as stream:
        yield from stream
        yield stream.get_final_response()


def streamed_message(**more: Any) -> Call:
    """Let the SDK put the answer together from the stream of `/v1/messages`."""

    def call(to: Clients) -> Any:
        with to.anthropic.messages.stream(**ask("/v1/messages", **more)) as stream:
            yield from stream
            yield stream.get_final_message()

    return call


def at_the_same_time(to: Clients) -> Any:
    """Ask with the asynchronous clients, one stream each at a time."""
    import anthropic
    import ollama
    import openai

    async def collect(call: Any) -> list[Any]:
        return [part async for part in await call]

    async def main() -> list[list[Any]]:
        own = ollama.AsyncClient(to.url, timeout=DEADLINE)
        async with (
            own,
            openai.AsyncOpenAI(base_url=f"{to.url}/v1", api_key="k") as gpt,
            anthropic.AsyncAnthropic(base_url=to.url, api_key="k") as sonnet,
        ):
            path = "/v1/chat/completions"
            parts = [
                await collect(own.chat(**ask("/api/chat", stream=True))),
                await collect(gpt.chat.completions.create(**ask(path, stream=True))),
                await collect(sonnet.messages.create(**ask("/v1/messages", stream=True))),
            ]
        return parts

    return [part for parts in asyncio.run(main()) for part in parts]


CASES: dict[str, Call] = {
    "generate": generate(),
    "generate, streamed": generate(stream=True),
    "generate, thinking": generate(stream=True, think=True),
    "generate, JSON": generate(format="json", options={"seed": 1, "temperature": 0.5}),
    "chat": chat(options={"num_predict": 9}),
    "chat, streamed": chat(stream=True),
    "chat, thinking": chat(think="high"),
    "chat, streamed thinking": chat(stream=True, think=True),
    "chat, tools": chat(tools=[get_weather]),
    "chat, streamed tools": chat(stream=True, tools=[get_weather]),
    "chat, schema": chat(stream=True, format=Answer.model_json_schema()),
    "chat completion": chat_completion(),
    "chat completion, streamed": chat_completion(stream=True),
    "chat completion, streamed with counts": chat_completion(stream=True, **USAGE),
    "chat completion, thinking": chat_completion(stream=True, reasoning_effort="high"),
    "chat completion, tools": chat_completion(**OPENAI_TOOLS),
    "chat completion, streamed tools": chat_completion(stream=True, **OPENAI_TOOLS, **USAGE),
    "chat completion, put together": streamed_completion,
    "chat completion, parsed": parsed_completion,
    "completion": completion(),
    "completion, streamed": completion(stream=True),
    "completion, streamed with counts": completion(stream=True, **USAGE),
    "response": response(),
    "response, streamed": response(stream=True),
    "response, thinking": response(stream=True, **THINK["/v1/responses"]),
    "response, tools": response(**RESPONSES_TOOLS),
    "response, streamed tools": response(stream=True, **RESPONSES_TOOLS),
    "response, put together": streamed_response,
    "response, parsed": parsed_response,
    "message": message(),
    "message, streamed": message(stream=True),
    "message, tools": message(**ANTHROPIC_TOOLS),
    "message, thinking": message(**THINK["/v1/messages"]),
    "message, put together": streamed_message(),
    "message, put together with thinking": streamed_message(**THINK["/v1/messages"]),
    "message, put together with tools": streamed_message(**ANTHROPIC_TOOLS),
}


ASIDE: dict[str, Call] = {
    "list": lambda to: to.ollama.list(),
    "ps": lambda to: to.ollama.ps(),
    "show": lambda to: to.ollama.show("tinyllama"),
    "embed": lambda to: to.ollama.embed("tiny-embed", "hello"),
    "embeddings": lambda to: to.ollama.embeddings("tiny-embed", "hello"),
    "models": lambda to: list(to.openai.models.list()),
    "model": lambda to: to.openai.models.retrieve("tinyllama"),
    "OpenAI's embeddings": lambda to: to.openai.embeddings.create(
        model="tiny-embed", input="hello", encoding_format="float"
    ),
}

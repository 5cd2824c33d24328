"""The services that answer prompts: `LLMService`, its two kinds, and the errors that they raise.

A service turns a prompt into chunks as they come; whoever wants the whole answer joins them. The
last chunk of a whole answer is `done`: everything else raises.

    LLMServiceError
    ├── ServiceUnreachableError            nothing answers there
    ├── ModelNotFoundError                 the model that the request named is not there
    │   └── DefaultModelNotFoundError      the same, where the request named none
    ├── RequestRefusedError                the service finds the request wrong
    ├── ServiceBusyError                   the service has too much to do
    ├── ServiceLoopError                   the service is MiniVault itself
    ├── TokenTimeoutError                  no first token, or no next one, in time
    └── BrokenAnswerError                  cut off, failed, or not the service's protocol

Ollama is asked for a stream whichever endpoint was called, so that a cancelled or broken answer
still leaves its text and the time between two tokens can be watched.
"""

import asyncio
import base64
import re
import secrets
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from functools import lru_cache
from typing import ClassVar, Self, assert_never
from urllib.parse import unquote_to_bytes

import aiohttp
import httpx
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from yarl import URL

from telemetry import metrics
from telemetry import tracing
from upstream.deadline import Deadline
from messages import Chunk, Prompt
from upstream.reader import CUT_OFF, AnswerReader, Framing, ModelList, OllamaAnswer, listed_name
from protocols.base import NATIVE, error_words
from settings import Settings
from upstream.transport import UNREACHABLE, Transport, forget_frames, words_of

JSON = [(b"Content-Type", b"application/json")]
MAX_ERROR_BYTES = 4096
MAX_LIST_BYTES = 2**20


class LLMServiceError(Exception):
    """A service could not answer; the message says what happened and what to do about it."""


class ServiceUnreachableError(LLMServiceError):
    """Nothing answers where the service should be."""


class ModelNotFoundError(LLMServiceError):
    """The model that the request named is not there."""


class DefaultModelNotFoundError(ModelNotFoundError):
    """The request named no model, and the default one is not there."""


class RequestRefusedError(LLMServiceError):
    """The service finds the request wrong, in its own words."""


class ServiceBusyError(LLMServiceError):
    """The service has too many requests waiting, in its own words."""


class ServiceLoopError(LLMServiceError):
    """The service that was asked is MiniVault itself."""


class TokenTimeoutError(LLMServiceError):
    """No first token, or no next one, in time; the message names the setting."""


class BrokenAnswerError(LLMServiceError):
    """The answer was cut off, failed, or was not the service's protocol."""


class LLMService(ABC):
    """Something that answers prompts; an async context for as long as the process serves."""

    llm_type: ClassVar[str]
    model: str
    """What answers where a prompt names no model."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Let go of connections."""

    @abstractmethod
    def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        """Answer the prompt chunk by chunk; closing the generator stops the work.

        Raises:
            LLMServiceError: the answer failed or is not whole.
        """

    async def check(self) -> None:
        """Raise `LLMServiceError` where the service could not answer a prompt now."""


class StubbedLLMService(LLMService):
    """Canned answers, word by word: the same prompt gets the same answer."""

    llm_type = "stubbed"
    model = "stub"
    ANSWERS = (
        "Good question! In short: yes, mostly, and it gets better with tea.\n"
        "The longer answer needs a real model, and I am only a stub with good manners.",
        "Let me think about that for a moment.\n\n"
        "Done. The answer is somewhere between three and a lovely afternoon in May.",
        "Once upon a time somebody asked exactly this. They went for a walk, "
        "came back with rosy cheeks, and found that they knew it all along.",
        "Three things come to mind: patience, good tests, and a warm cup of coffee. "
        "With these, most prompts answer themselves.",
        "I could tell you, but half the joy is in finding out. Here is a hint, though: "
        "it is smaller than a whale and friendlier than a semicolon.",
    )

    def __init__(self, delay: float) -> None:
        """Wait `delay` seconds between two chunks."""
        self._delay = delay

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        answer = self.ANSWERS[zlib.crc32(prompt.prompt.encode()) % len(self.ANSWERS)]
        first, *others = re.findall(r"\S+\s*", answer)
        yield Chunk([first], model=self.model)
        for word in others:
            await asyncio.sleep(self._delay)
            yield Chunk([word], model=self.model)
        yield Chunk(model=self.model, done=True)


class OllamaLLMService(LLMService):
    """Ollama, with one transport for the life of the process."""

    llm_type = "ollama"

    def __init__(self, settings: Settings) -> None:
        self.model = settings.ollama_model
        self.via = f"1.1 minivault-{secrets.token_hex(4)}"
        """What every request carries, so that one that comes back is known (RFC 9110 §7.6.3)."""
        self._settings = settings
        url = httpx.URL(settings.ollama_base_url)
        self.url = url.copy_with(userinfo=b"")
        self._url_of = lru_cache(32)(self._parse_target)
        self._headers = [(b"Via", self.via.encode())]
        if url.userinfo:  # for a proxy before Ollama that wants a password
            login = base64.b64encode(unquote_to_bytes(url.userinfo))
            self._headers.append((b"Authorization", b"Basic " + login))

    async def __aenter__(self) -> Self:
        self._transport = Transport(self._settings.connect_timeout)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.aclose()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        given = prompt.model_dump(exclude_none=True)
        body = to_json({"model": self.model, **given, "stream": True})
        async with self.ask("POST", b"/api/generate", JSON, body) as answer:
            if answer.status != httpx.codes.OK:
                raise self._refusal(answer.status, await answer.read(MAX_ERROR_BYTES), prompt.model)
            reader = AnswerReader(NATIVE, Framing.LINES, strict=True)
            async with aclosing(answer.chunks(reader)) as chunks:
                async for chunk in chunks:
                    error, chunk.error = chunk.error, None
                    yield chunk
                    if error:
                        raise BrokenAnswerError(error)

    @asynccontextmanager
    async def ask(
        self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes = b""
    ) -> AsyncIterator[OllamaAnswer]:
        """Send a request, and have its answer's head when the block begins.

        Raises:
            LLMServiceError: out of reach, too late, or broken off; also from within the block.
        """
        traced = {name.encode(): value.encode() for name, value in tracing.headers().items()}
        if traced:  # in place of the client's own, which this request's span has taken up
            headers = [each for each in headers if each[0].lower() not in traced]
        try:
            url = self._url_of(target)
        except (httpx.InvalidURL, UnicodeError) as exc:
            raise RequestRefusedError(f"what is asked for cannot be passed on: {exc}") from exc
        headers = [*headers, *self._headers, *traced.items()]
        answer = None
        try:
            with (
                closing(Deadline(self._settings.first_token_timeout)) as deadline,
                self._transport_errors(),
            ):
                with deadline:
                    response = await self._transport.send(method, url, headers, body)
                with closing(response):
                    answer = OllamaAnswer(response, deadline, self._settings.idle_timeout)
                    yield answer
        except TimeoutError:
            raise self._timeout(answer) from None

    def _parse_target(self, target: bytes) -> URL:
        """Return the URL of a target without `..`: on Ollama's host, behind the path of its URL."""
        if not target.startswith(b"/"):  # `@x` would go to `/path@x`
            raise httpx.InvalidURL("a path begins with '/'")
        path = self.url.raw_path.rstrip(b"/") + target
        return URL(str(self.url.copy_with(raw_path=path)), encoded=True)

    async def check(self) -> None:
        """Raise `LLMServiceError` where Ollama is out of reach or lacks the default model."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                async with self.ask("GET", b"/api/tags", []) as answer:
                    body = await answer.read(MAX_LIST_BYTES)
            models = ModelList.model_validate_json(body).models
        except TimeoutError:
            raise self._unreachable("it does not answer in time") from None
        except ValidationError:
            raise self._unreachable(f"what answers is not Ollama ({answer.status})") from None
        if listed_name(self.model) not in {listed_name(model.name) for model in models}:
            raise DefaultModelNotFoundError(self._missing(self.model))

    def _refusal(self, status: int, body: bytes, requested: str | None) -> LLMServiceError:
        """Return the error that an answer without tokens means."""
        try:
            words = error_words(from_json(body).get("error"))
        except (AttributeError, ValueError):
            words = None
        if words is None:
            words = body[:200].decode(errors="replace") or "nothing more"
            return BrokenAnswerError(f"Ollama answered {status} and said: {words}")
        match status:
            case httpx.codes.BAD_REQUEST:
                return RequestRefusedError(f"Ollama refused the request: {words}")
            case httpx.codes.NOT_FOUND if requested:
                return ModelNotFoundError(self._missing(requested))
            case httpx.codes.NOT_FOUND:
                return DefaultModelNotFoundError(self._missing(self.model))
            case httpx.codes.SERVICE_UNAVAILABLE:
                return ServiceBusyError(f"Ollama is busy: {words}")
            case httpx.codes.LOOP_DETECTED:
                return ServiceLoopError(words)
        return BrokenAnswerError(f"Ollama failed: {words}")

    @contextmanager
    def _transport_errors(self) -> Iterator[None]:
        """Turn the transport's errors into the service's."""
        try:
            yield
        except aiohttp.ClientError as exc:
            forget_frames(exc)
            if isinstance(exc, UNREACHABLE):
                raise self._unreachable(words_of(exc)) from exc
            raise BrokenAnswerError(f"{CUT_OFF}: {words_of(exc)}") from exc

    def _unreachable(self, reason: str) -> ServiceUnreachableError:
        metrics.UNREACHABLE.inc()
        return ServiceUnreachableError(
            f"Ollama is out of reach at {self.url}: {reason}; start it with "
            f"`{self._settings.ollama_start}`, or set MINIVAULT_OLLAMA_BASE_URL"
        )

    def _missing(self, model: str) -> str:
        return f"model '{model}' is not there; get it with `{self._settings.ollama_pull} {model}`"

    def _timeout(self, answer: OllamaAnswer | None) -> TokenTimeoutError:
        if answer and answer.has_token:
            which, seconds, setting = "next", self._settings.idle_timeout, "IDLE_TIMEOUT"
        else:
            which, seconds = "first", self._settings.first_token_timeout
            setting = "FIRST_TOKEN_TIMEOUT"
        return TokenTimeoutError(
            f"Ollama sent no {which} token within {seconds:g} s; "
            f"MINIVAULT_{setting} sets how long to wait"
        )


def create_llm_service(settings: Settings) -> LLMService:
    """Return the service that `MINIVAULT_LLM_SERVICE` names."""
    match settings.llm_service:
        case "stubbed":
            return StubbedLLMService(settings.stub_delay)
        case "ollama":
            return OllamaLLMService(settings)
        case unknown:
            assert_never(unknown)

"""The services that answer prompts: `LLMService`, its kinds, and the errors that they raise.

A service turns a prompt into chunks as they arrive; `/generate` joins them. The last chunk of a
complete answer is `done`: everything else raises.

    LLMServiceError
    ├── ServiceUnreachableError            nothing answers there
    ├── ModelNotFoundError                 the model that the request named does not exist
    │   └── DefaultModelNotFoundError      the same, where the request named none
    ├── RequestRefusedError                the service finds the request wrong
    ├── ServiceBusyError                   the service has too much to do
    ├── ServiceLoopError                   the service is MiniVault itself
    ├── TokenTimeoutError                  no first token, or no next one, in time
    └── BrokenAnswerError                  cut off, failed, or not of the service's protocol

A stream is requested from the service for `/generate` too, so that a cancelled or broken answer
leaves its text and the time between two tokens can be limited.
"""

import asyncio
import base64
import math
import re
import secrets
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from functools import lru_cache
from typing import Any, ClassVar, Self, assert_never
from urllib.parse import unquote_to_bytes

import aiohttp
import httpx
from pydantic_core import from_json, to_json
from yarl import URL

from messages import Chunk, Prompt
from protocols.base import Json, Protocol, as_dict, error_message
from protocols.native import Native
from settings import Settings
from telemetry import metrics, tracing
from upstream.answer import UpstreamAnswer
from upstream.deadline import Deadline
from upstream.model_names import canonical_name
from upstream.reader import AnswerReader, Framing
from upstream.transport import UNREACHABLE, Transport, clear_tracebacks, describe_error

MAX_ERROR_BYTES = 4096
MAX_LIST_BYTES = 2**20
LOOK_SECONDS = 1.0
"""How long a look whether the server runs is remembered."""


class LLMServiceError(Exception):
    """A service could not answer; the message says what happened and what to do about it."""


class ServiceUnreachableError(LLMServiceError):
    """Nothing answers at the service's address."""


class ModelNotFoundError(LLMServiceError):
    """The model that the request named does not exist."""


class DefaultModelNotFoundError(ModelNotFoundError):
    """The request named no model, and the default one does not exist."""


class RequestRefusedError(LLMServiceError):
    """The service finds the request wrong, in its own words."""


class ServiceBusyError(LLMServiceError):
    """The service has too many requests waiting, in its own words."""


class ServiceLoopError(LLMServiceError):
    """The service is MiniVault itself."""


class TokenTimeoutError(LLMServiceError):
    """No first token, or no next one, in time; the message names the setting."""


class BrokenAnswerError(LLMServiceError):
    """The answer was cut off, failed, or was not of the service's protocol."""


class LLMService(ABC):
    """What answers prompts; an async context for as long as the process serves."""

    llm_type: ClassVar[str]
    """The value of `MINIVAULT_LLM_SERVICE` that selects it."""
    is_ollama: ClassVar[bool] = False
    """Whether it has Ollama's own interfaces, so that the gateway can forward to it."""
    model: str
    """What answers where a prompt names no model."""
    address: tuple[str, int] | None = None
    """Its host and its port."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What answers, and where, in words."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close all connections."""

    @abstractmethod
    def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        """Answer the prompt chunk by chunk; closing the generator stops the work.

        Raises:
            LLMServiceError: the answer failed or is not complete.
        """

    async def check(self) -> None:
        """Raise `LLMServiceError` if the service could not answer a prompt now."""

    async def check_running(self) -> None:
        """Raise `LLMServiceError` if the service did not answer at all a second ago, or now."""


class StubbedLLMService(LLMService):
    """Canned answers, word by word; the same prompt always gets the same one."""

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

    source = "the stub"

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


class NoLLMService(LLMService):
    """Nothing that answers: where the log of other MiniVaults is read, and nothing else."""

    llm_type = "none"
    model = ""
    source = "no LLM service"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        raise ServiceUnreachableError("nothing answers here: MINIVAULT_LLM_SERVICE is none")
        yield  # what makes this a generator


class HTTPService(LLMService):
    """A service that is asked over HTTP, with one transport for the life of the process.

    A subclass names the server, its protocol and its path, and says how a prompt is sent.
    """

    name: ClassVar[str]
    protocol: ClassVar[Protocol]
    path: ClassVar[bytes]
    framing: ClassVar[Framing] = Framing.EVENTS
    models_path: ClassVar[bytes] = b"/v1/models"
    """Where the models are listed, in the way that `read_models` reads."""
    start_hint: ClassVar[str]
    """What to do when the server is not running."""
    model_hint: ClassVar[str]
    """What to do when it does not have the model `{model}`."""

    def __init__(self, base_url: str, model: str, settings: Settings) -> None:
        self.model = model
        self.via = f"1.1 minivault-{secrets.token_hex(4)}"
        """The `Via` of every request, by which one that returns is recognized (RFC 9110 §7.6.3)."""
        self._settings = settings
        self._looking = asyncio.Lock()
        self._looked = -math.inf
        self._failure: LLMServiceError | None = None
        url = httpx.URL(base_url)
        self.url = url.copy_with(userinfo=b"")
        self.address = url.host, url.port or (443 if url.scheme == "https" else 80)
        self._url_of = lru_cache(32)(self._parse_target)
        self._headers = [(b"Via", self.via.encode())]
        if url.userinfo:  # for a proxy in between that wants a password
            login = base64.b64encode(unquote_to_bytes(url.userinfo))
            self._headers.append((b"Authorization", b"Basic " + login))

    @property
    def source(self) -> str:
        return f"{self.name} at {self.url}"

    @abstractmethod
    def encode_prompt(self, prompt: Prompt) -> Json:
        """Return the body of the request for a streamed answer to the prompt."""

    def read_models(self, listing: Any) -> list[object]:
        """Return the names of the models in an answer from `models_path`; OpenAI's form here.

        Raises:
            TypeError: it has another form.
        """
        return [model["id"] for model in listing["data"]]

    async def __aenter__(self) -> Self:
        self._transport = Transport(self._settings.connect_timeout)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.aclose()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        headers = [(b"Content-Type", b"application/json")]
        body = to_json(self.encode_prompt(prompt))
        async with self.request("POST", self.path, headers, body) as answer:
            if answer.status != httpx.codes.OK:
                raise self._read_error(
                    answer.status, await answer.read(MAX_ERROR_BYTES), prompt.model
                )
            reader = AnswerReader(self.protocol, self.framing, server=self.name, strict=True)
            async with aclosing(answer.read_chunks(reader)) as chunks:
                async for chunk in chunks:
                    error, chunk.error = chunk.error, None
                    yield chunk
                    if error:
                        raise BrokenAnswerError(error)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes = b"",
        *,
        has_limits: bool = True,
    ) -> AsyncIterator[UpstreamAnswer]:
        """Send a request; the answer's head has arrived when the block begins.

        Without limits the answer may take any time, as one does that comes as a whole.

        Raises:
            LLMServiceError: unreachable, too late, or broken off; also from within the block.
        """
        traced = {name.encode(): value.encode() for name, value in tracing.headers().items()}
        if traced:  # in place of the client's own, which this request's span has taken up
            headers = [each for each in headers if each[0].lower() not in traced]
        try:
            url = self._url_of(target)
        except (httpx.InvalidURL, UnicodeError) as exc:
            raise RequestRefusedError(f"the request's path cannot be forwarded: {exc}") from exc
        headers = [*headers, *self._headers, *traced.items()]
        answer = None
        first, idle = self._settings.first_token_timeout, self._settings.idle_timeout
        first, idle = (seconds or math.inf if has_limits else math.inf for seconds in (first, idle))
        try:
            with (
                closing(Deadline(first)) as deadline,
                self._translate_errors(),
            ):
                with deadline:
                    response = await self._transport.send(method, url, headers, body)
                with closing(response):
                    answer = UpstreamAnswer(response, deadline, idle)
                    yield answer
        except TimeoutError:
            raise self._timeout_error(answer) from None

    def _parse_target(self, target: bytes) -> URL:
        """Return the URL of a target without `..`: on the server, below the path of its URL."""
        if not target.startswith(b"/"):  # `@x` would go to `/path@x`
            raise httpx.InvalidURL("a path begins with '/'")
        path = self.url.raw_path.rstrip(b"/") + target
        return URL(str(self.url.copy_with(raw_path=path)), encoded=True)

    async def check(self) -> None:
        """Raise `LLMServiceError` if the server is unreachable or lacks the default model."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                async with self.request("GET", self.models_path, []) as answer:
                    body = await answer.read(MAX_LIST_BYTES)
            names = [str(name) for name in self.read_models(from_json(body))]
        except TimeoutError:
            raise self._unreachable_error("no answer in time") from None
        except (ValueError, TypeError, KeyError):
            reason = f"what answers there ({answer.status}) is not {self.name}"
            if answer.status >= httpx.codes.INTERNAL_SERVER_ERROR:
                failure = self._read_error(answer.status, body, None)
                reason = f"{reason}, or does not work ({failure})"
            raise self._unreachable_error(reason) from None
        if canonical_name(self.model) not in map(canonical_name, names):
            raise DefaultModelNotFoundError(self._missing_model(self.model))

    async def check_running(self) -> None:
        async with self._looking:  # one look for all who wait for it
            if time.monotonic() > self._looked + LOOK_SECONDS:
                failure = None
                try:
                    await self.check()
                except DefaultModelNotFoundError:
                    pass
                except LLMServiceError as exc:
                    failure = exc
                self._looked, self._failure = time.monotonic(), failure
        if self._failure:
            raise type(self._failure)(str(self._failure))

    def _read_error(self, status: int, body: bytes, requested: str | None) -> LLMServiceError:
        """Return the error for an answer whose status is not 200."""
        message = None
        try:
            message = error_message(as_dict(from_json(body)).get("error"))
        except ValueError:
            pass
        if message is None:
            message = body[:200].decode(errors="replace") or "an empty body"
            return BrokenAnswerError(f"{self.name} answered {status}: {message}")
        match status:
            case httpx.codes.BAD_REQUEST:
                return RequestRefusedError(f"{self.name} refused the request: {message}")
            case httpx.codes.NOT_FOUND if requested:
                return ModelNotFoundError(self._missing_model(requested))
            case httpx.codes.NOT_FOUND:
                return DefaultModelNotFoundError(self._missing_model(self.model))
            case httpx.codes.SERVICE_UNAVAILABLE:
                return ServiceBusyError(f"{self.name} is busy: {message}")
            case httpx.codes.LOOP_DETECTED:
                return ServiceLoopError(message)
        return BrokenAnswerError(f"{self.name} failed: {message}")

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn the transport's errors into the service's."""
        try:
            yield
        except aiohttp.ClientError as exc:
            clear_tracebacks(exc)
            if isinstance(exc, UNREACHABLE):
                raise self._unreachable_error(describe_error(exc)) from exc
            raise BrokenAnswerError(
                f"{self.name} broke off before the end of its answer: {describe_error(exc)}"
            ) from exc

    def _unreachable_error(self, reason: str) -> ServiceUnreachableError:
        metrics.UNREACHABLE.inc()
        return ServiceUnreachableError(
            f"{self.name} is unreachable at {self.url}: {reason}; {self.start_hint}"
        )

    def _missing_model(self, model: str) -> str:
        return f"model '{model}' not found; {self.model_hint.format(model=model)}"

    def _timeout_error(self, answer: UpstreamAnswer | None) -> TokenTimeoutError:
        if answer and answer.has_token:
            which, seconds, setting = "next", self._settings.idle_timeout, "IDLE_TIMEOUT"
        else:
            which, seconds = "first", self._settings.first_token_timeout
            setting = "FIRST_TOKEN_TIMEOUT"
        return TokenTimeoutError(
            f"{self.name} sent no {which} token within {seconds:g} s; "
            f"raise MINIVAULT_{setting} to wait longer"
        )


class OllamaLLMService(HTTPService):
    """Ollama, by its own interface."""

    llm_type = "ollama"
    name = "Ollama"
    is_ollama = True
    protocol = Native()
    path = b"/api/generate"
    framing = Framing.LINES
    models_path = b"/api/tags"
    start_hint = "start it there with `ollama serve`, or set MINIVAULT_OLLAMA_BASE_URL"
    model_hint = "pull it with `ollama pull {model}` where Ollama runs"

    def encode_prompt(self, prompt: Prompt) -> Json:
        return {"model": self.model, **prompt.model_dump(exclude_none=True), "stream": True}

    def read_models(self, listing: Any) -> list[object]:
        return [model["name"] for model in listing["models"]]


def create_llm_service(settings: Settings) -> LLMService:
    """Return the service that `MINIVAULT_LLM_SERVICE` names."""
    match settings.llm_service:
        case "stubbed":
            return StubbedLLMService(settings.stub_delay)
        case "none":
            return NoLLMService()
        case "ollama":
            return OllamaLLMService(settings.ollama_base_url, settings.ollama_model, settings)
        case unknown:
            assert_never(unknown)

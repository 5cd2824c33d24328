"""The services that answer prompts: `LLMService`, its two kinds, and the errors that they raise.

A service turns a prompt into chunks as they come; whoever wants the whole answer joins them. An
answer is whole when the iteration ends by itself: everything else raises.

    LLMServiceError
    ├── OllamaUnreachableError             nothing answers at its URL
    ├── ModelNotFoundError                 the model that the request named is not there
    │   └── DefaultModelNotFoundError      the same, where the request named none
    ├── RequestRefusedError                Ollama's 400
    ├── OllamaBusyError                    Ollama's 503
    ├── TokenTimeoutError                  no first token, or no next one, in time
    └── BrokenAnswerError                  cut off, failed, or not Ollama's protocol

Ollama is asked for a stream whichever endpoint was called, so that a cancelled or broken answer
still leaves its text and the time between two tokens can be watched.
"""

import asyncio
import base64
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Self
from urllib.parse import unquote_to_bytes

import httpx
from pydantic import ValidationError
from pydantic_core import to_json

from deadline import Deadline
from exchange import Chunk, Prompt
from ollama_wire import AnswerReader, ModelList, error_words, listed_name
from settings import Settings
from transport import StreamTransport

MAX_ERROR_BYTES = 4096
CUT_OFF = "Ollama broke off before the end of its answer"


class LLMServiceError(Exception):
    """A service could not answer; the message says what happened and what to do about it."""


class OllamaUnreachableError(LLMServiceError):
    """Nothing answers at Ollama's URL."""


class ModelNotFoundError(LLMServiceError):
    """The model that the request named is not there."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model '{model}' is not there; get it with `ollama pull {model}`")


class DefaultModelNotFoundError(ModelNotFoundError):
    """The request named no model, and the default one is not there."""


class RequestRefusedError(LLMServiceError):
    """Ollama found the request wrong, in its own words."""


class OllamaBusyError(LLMServiceError):
    """Ollama has too many requests waiting, in its own words."""


class TokenTimeoutError(LLMServiceError):
    """No first token, or no next one, in time; the message names the setting."""


class BrokenAnswerError(LLMServiceError):
    """The answer was cut off, failed, or was not Ollama's protocol."""


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
        for number, word in enumerate(re.findall(r"\S+\s*", answer)):
            if number:
                await asyncio.sleep(self._delay)
            yield Chunk(word, model=self.model)


@dataclass(frozen=True)
class TokenLimit:
    """How long to wait for a token, in seconds, and the setting that says so."""

    token: Literal["first", "next"]
    seconds: float
    setting: str

    def error(self) -> TokenTimeoutError:
        """Return the error for a token that did not come."""
        return TokenTimeoutError(
            f"Ollama sent no {self.token} token within {self.seconds:g} s; "
            f"{self.setting} sets how long to wait"
        )


class OllamaLLMService(LLMService):
    """Ollama, over its `/api/generate`, with one transport for the life of the process."""

    llm_type = "ollama"

    def __init__(self, settings: Settings) -> None:
        self.model = settings.ollama_model
        self._connect_timeout = settings.connect_timeout
        self._first = TokenLimit(
            "first", settings.first_token_timeout, "MINIVAULT_FIRST_TOKEN_TIMEOUT"
        )
        self._next = TokenLimit("next", settings.idle_timeout, "MINIVAULT_IDLE_TIMEOUT")
        url = httpx.URL(settings.ollama_base_url)
        self._url = url.copy_with(userinfo=b"")
        self._generate_url = httpx.URL(f"{self._url}/api/generate")
        self._tags_url = httpx.URL(f"{self._url}/api/tags")
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if url.userinfo:  # for a proxy before Ollama that wants a password
            login = base64.b64encode(unquote_to_bytes(url.userinfo)).decode()
            self._headers["Authorization"] = f"Basic {login}"
        self._transport = StreamTransport()

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.aclose()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        given = prompt.model_dump(exclude_none=True)
        asked = {"model": self.model, **given, "stream": True}
        request = self._request("POST", self._generate_url, to_json(asked))
        limit = self._first
        deadline = Deadline(limit.seconds)
        try:
            with closing(deadline), self._transport_errors():
                with deadline:
                    response = await self._transport.handle_async_request(request)
                async with aclosing(response):
                    reads = aiter(response.stream)
                    if response.status_code != httpx.codes.OK:
                        with deadline:
                            raise await self._refusal(response, prompt.model)
                    answer = AnswerReader()
                    while not answer.done:
                        with deadline:
                            data = await anext(reads, b"")
                        yield answer.feed(data or b"\n")
                        if answer.failure:
                            raise BrokenAnswerError(answer.failure)
                        if not data and not answer.done:
                            raise BrokenAnswerError(CUT_OFF)
                        limit = self._next
                        deadline.move(limit.seconds)
        except TimeoutError:
            raise limit.error() from None

    async def check(self) -> None:
        """Raise `LLMServiceError` where Ollama is out of reach or lacks the default model."""
        try:
            with self._transport_errors():
                async with asyncio.timeout(self._connect_timeout):
                    request = self._request("GET", self._tags_url)
                    response = await self._transport.handle_async_request(request)
                    async with aclosing(response):
                        body = await response.aread()
            models = ModelList.model_validate_json(body).models
        except TimeoutError:
            raise self._unreachable("it accepts the connection but does not answer") from None
        except ValidationError:
            raise self._unreachable(f"what answers there is not Ollama ({response})") from None
        if listed_name(self.model) not in {listed_name(model.name) for model in models}:
            raise DefaultModelNotFoundError(self.model)

    async def _refusal(self, response: httpx.Response, requested: str | None) -> LLMServiceError:
        """Return the error that an answer without tokens means."""
        body = b""
        async for data in response.aiter_raw():
            body += data
            if len(body) > MAX_ERROR_BYTES:
                break
        words = error_words(body)
        if words is None:
            words = body[:200].decode(errors="replace") or "nothing more"
            return BrokenAnswerError(f"Ollama answered {response.status_code} and said: {words}")
        match response.status_code:
            case httpx.codes.BAD_REQUEST:
                return RequestRefusedError(f"Ollama refused the request: {words}")
            case httpx.codes.NOT_FOUND if requested:
                return ModelNotFoundError(requested)
            case httpx.codes.NOT_FOUND:
                return DefaultModelNotFoundError(self.model)
            case httpx.codes.SERVICE_UNAVAILABLE:
                return OllamaBusyError(f"Ollama is busy: {words}")
        return BrokenAnswerError(f"Ollama failed: {words}")

    def _request(self, method: str, url: httpx.URL, content: bytes = b"") -> httpx.Request:
        timeout = {"connect": self._connect_timeout}
        return httpx.Request(
            method, url, headers=self._headers, content=content, extensions={"timeout": timeout}
        )

    @contextmanager
    def _transport_errors(self) -> Iterator[None]:
        """Turn the transport's errors into the service's."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise self._unreachable(str(exc) or type(exc).__name__) from exc
        except httpx.TransportError as exc:
            raise BrokenAnswerError(f"{CUT_OFF}: {str(exc) or type(exc).__name__}") from exc

    def _unreachable(self, reason: str) -> OllamaUnreachableError:
        return OllamaUnreachableError(
            f"Ollama is out of reach at {self._url}: {reason}; start it with `ollama serve`, "
            "or set MINIVAULT_OLLAMA_BASE_URL"
        )


def create_llm_service(settings: Settings) -> LLMService:
    """Return the service that `MINIVAULT_LLM_SERVICE` names."""
    if settings.llm_service == "ollama":
        return OllamaLLMService(settings)
    return StubbedLLMService(settings.stub_delay)

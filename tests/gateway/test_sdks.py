"""The official Python SDKs, straight and through MiniVault: they yield the same objects."""

import gc
from typing import Any

import pytest

from tests.conftest import DEADLINE, Serve, Way
from tests.ollama_protocols import CALLS, TEXT
from tests.ollama_stand_in import OllamaStandIn, begin, hang, killed
from tests.sdk_calls import (
    ASIDE,
    CASES,
    Call,
    Clients,
    Objects,
    at_the_same_time,
    chat,
    chat_completion,
    completion,
    error,
    generate,
    message,
    objects,
    response,
    run,
)
from tests.ways import PROMPT, SYSTEM, check_entries


@pytest.mark.parametrize("name", CASES)
def test_an_sdk_yields_what_it_yields_without_us_and_the_log_has_it(way: Way, name: str) -> None:
    got = run(CASES[name], way.url)
    check_entries(way, 1)
    assert got == run(CASES[name], way.ollama.url)
    said = str(got)
    assert "“¡größer" in said or "blue" in said or CALLS[0]["name"] in said


def test_asynchronous_sdks_do_as_well(way: Way) -> None:
    got = run(at_the_same_time, way.url)
    check_entries(way, 3)
    assert got == run(at_the_same_time, way.ollama.url)


@pytest.mark.parametrize("name", ASIDE)
def test_what_is_no_generation_is_answered_and_not_recorded(way: Way, name: str) -> None:
    assert run(ASIDE[name], way.url) == run(ASIDE[name], way.ollama.url)
    if way.service:
        assert way.service.entries == []


UNKNOWN: dict[str, tuple[Call, str]] = {
    "generate": (generate(model="nope"), "ollama.ResponseError"),
    "chat": (chat(model="nope", stream=True), "ollama.ResponseError"),
    "chat, bad option": (chat(options={"temperature": "hot"}), "ollama.ResponseError"),
    "chat completion": (chat_completion(model="nope", stream=True), "openai.NotFoundError"),
    "chat completion, malformed": (chat_completion(messages=5), "openai.BadRequestError"),
    "completion": (completion(model="nope"), "openai.NotFoundError"),
    "completion, malformed": (completion(prompt=5), "openai.BadRequestError"),
    "response": (response(model="nope", stream=True), "openai.NotFoundError"),
    "message": (message(model="nope"), "anthropic.NotFoundError"),
    "message, malformed": (message(messages=5, stream=True), "anthropic.BadRequestError"),
}


def raised(call: Call, url: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Return the words of the SDK's own exception, and what else it carries."""
    with pytest.raises(error(kind)) as caught:
        run(call, url)
    known = ("status_code", "error", "body", "code", "type")
    return str(caught.value), {key: getattr(caught.value, key, None) for key in known}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_refusal_is_the_sdks_own_exception(way: Way, name: str) -> None:
    call, kind = UNKNOWN[name]
    got = raised(call, way.url, kind)
    check_entries(way, 1)
    assert got == raised(call, way.ollama.url, kind)
    assert got[1]["status_code"] in (400, 404, 500)


def test_token_counting_is_not_there_as_at_ollama(way: Way) -> None:
    not_found = error("anthropic.NotFoundError")
    with Clients(way.url) as to, pytest.raises(not_found, match="404 page not found"):
        to.anthropic.messages.count_tokens(model="x", messages=[{"role": "user", "content": "x"}])


STREAMS: dict[str, Call] = {
    name: CASES[name]
    for name in ("generate, streamed", "chat, streamed", "chat completion, streamed")
    + ("completion, streamed", "response, streamed", "message, streamed")
    + ("chat completion, put together", "message, put together")
}


@pytest.mark.parametrize("name", STREAMS)
def test_breaking_out_of_the_loop_stops_ollama(way: Way, name: str) -> None:
    way.ollama.answer = begin(3, end=hang)
    with Clients(way.url) as to:
        for _ in STREAMS[name](to):
            break
        gc.collect()
        assert way.ollama.left.acquire(timeout=DEADLINE), "the request to Ollama stayed open"
    if way.service:
        entry = way.service.entry()
        assert entry["status"] == "cancelled" and "left" in entry["error"]
        assert "".join(TEXT).startswith(entry["response"])
        assert entry["prompt"] == PROMPT and entry["system"] in (SYSTEM, None)


@pytest.mark.parametrize("name", STREAMS)
def test_half_an_answer_ends_as_it_does_without_us(way: Way, name: str) -> None:
    """Only Ollama's own protocol says that its model died: the SDKs take the others for whole."""
    way.ollama.answer = killed

    def outcome(url: str) -> tuple[Objects, str]:
        got: Objects = []
        with Clients(url) as to:
            try:
                for part in STREAMS[name](to):
                    got += objects([part])
            except (error("ollama.ResponseError"), RuntimeError) as exc:
                return got, str(exc)
        return got, ""

    got = outcome(way.url)
    if way.service:
        assert way.service.entry()["status"] == "error"
    assert got == outcome(way.ollama.url)


OWN: dict[str, str] = {
    "generate": "ollama.ResponseError",
    "chat": "ollama.ResponseError",
    "chat completion": "openai.APIError",
    "completion": "openai.APIError",
    "response": "openai.APIError",
    "message": "anthropic.APIStatusError",
}


def test_a_time_out_in_mid_stream_is_the_sdks_own_exception(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, idle_timeout=0.2)
    ollama.answer = begin(6, end=hang)
    for name, kind in OWN.items():
        with pytest.raises(error(kind), match="MINIVAULT_IDLE_TIMEOUT"):
            run(CASES[f"{name}, streamed"], service.url)


def test_a_wrong_key_is_the_sdks_own_exception(serve: Serve, ollama: OllamaStandIn) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, api_key="another")
    kinds = {"chat": "ollama.ResponseError", "message": "anthropic.AuthenticationError"}
    for name, kind in {**kinds, "response": "openai.AuthenticationError"}.items():
        with pytest.raises(error(kind), match="MINIVAULT_API_KEY"):
            run(CASES[name], service.url)
    assert ollama.requests == []


def test_openais_request_id_is_the_entrys(way: Way) -> None:
    with Clients(way.url) as to:
        answer = chat_completion()(to)
    if way.service:
        assert answer._request_id == way.service.entry()["id"]

"""An Ollama that is slow, endless or strange: time counts tokens, nothing is read without end."""

import asyncio
import socket
import threading
import time

import pytest

from tests.conftest import Serve, Service
from tests.ollama_stand_in import Behaviour, Conversation, OllamaStandIn, hang, tokens
from upstream import reader

PROMPT = {"prompt": "Why?"}


async def blank_line_then_slow_token(talk: Conversation) -> None:
    """Say nothing for longer than the time between two tokens, after a line without a token."""
    await talk.start()
    await talk.chunk(b"\n")
    await asyncio.sleep(1)
    await talk.line(response="Blue", done=False)
    await talk.done()


async def half_a_line_then_slow_rest(talk: Conversation) -> None:
    """Let the first token's line come in two halves."""
    line = talk.encode(response="Blue", done=False)
    await talk.start()
    await talk.chunk(line[:20])
    await asyncio.sleep(1)
    await talk.chunk(line[20:])
    await talk.done()


@pytest.mark.parametrize("answer", [blank_line_then_slow_token, half_a_line_then_slow_rest])
def test_what_is_no_token_does_not_end_the_wait_for_the_first(
    serve: Serve, ollama: OllamaStandIn, answer: Behaviour
) -> None:
    ollama.answer = answer
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, idle_timeout=0.3)
    answered = service.client.post("/generate", json=PROMPT)
    assert (answered.status_code, answered.json()) == (200, {"response": "Blue"})


@pytest.mark.parametrize("before", [[], ["Blue"]])
@pytest.mark.parametrize(
    ("piece", "pause"),
    [(b" ", 0.05), (b'{"done":false}\n' * 8192, 0)],
    ids=["a trickle", "a flood: there is hardly ever anything to wait for"],
)
def test_what_is_no_token_is_not_read_for_longer(
    serve: Serve, ollama: OllamaStandIn, before: list[str], piece: bytes, pause: float
) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        for token in before:
            await talk.line(response=token, done=False)
        while True:
            await talk.chunk(piece)
            await asyncio.sleep(pause)

    ollama.answer = answer
    times = {"first_token_timeout": 1.0, "idle_timeout": 1.0}
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, **times)
    answered = service.client.post("/generate", json=PROMPT)
    assert answered.status_code == 504
    assert ("no next" if before else "no first") in answered.json()["detail"]
    assert ollama.left.acquire(timeout=60), "it was read on"


def test_null_is_as_absent(vault: Service, ollama: OllamaStandIn) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        await talk.line(response="Blue", thinking=None, error=None, done=None)
        await talk.done(eval_count=None, prompt_eval_count=None, done_reason=None)

    ollama.answer = answer
    assert vault.client.post("/generate", json=PROMPT).json() == {"response": "Blue"}
    assert vault.entry()["response_tokens"] is None


def test_line_without_end_is_not_read_to_it(
    vault: Service, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_EVENT_BYTES", 100_000)
    sent = 0

    async def endless(talk: Conversation) -> None:
        nonlocal sent
        await talk.start()
        while True:
            await talk.chunk(b"x" * 10_000)
            sent += 10_000

    ollama.answer = endless
    answered = vault.client.post("/generate", json=PROMPT)
    assert answered.status_code == 502 and "100000 bytes" in answered.json()["detail"]
    assert ollama.left.acquire(timeout=60), "it was read on"


def test_switching_protocols_is_a_broken_answer(vault: Service, ollama: OllamaStandIn) -> None:
    async def switch(talk: Conversation) -> None:
        await talk.raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        await hang(talk)

    ollama.answer = switch
    answered = vault.client.post("/generate", json=PROMPT)
    assert answered.status_code == 502 and "101" in answered.json()["detail"]


def test_end_that_comes_a_moment_later_keeps_the_connection(
    vault: Service, ollama: OllamaStandIn
) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        await talk.line(response="Blue", done=False)
        await talk.line(response="", done=True)
        await asyncio.sleep(0.01)
        await talk.raw(b"0\r\n\r\n")

    ollama.answer = answer
    for _ in range(5):
        assert vault.client.post("/generate", json=PROMPT).status_code == 200
    assert ollama.connections == 1


def test_end_that_never_comes_holds_nobody_up_for_long(
    vault: Service, ollama: OllamaStandIn
) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        await talk.line(response="Blue", done=True)
        await hang(talk)

    ollama.answer = answer
    begun = time.monotonic()
    assert vault.client.post("/generate", json=PROMPT).json() == {"response": "Blue"}
    assert time.monotonic() - begun < 60, "the first token's time was waited for"


def ready_of(serve: Serve, head: bytes, body: bytes, times: int = 1) -> str:
    """Return what `/ready` says where Ollama's list of models is answered so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(head)
                    for _ in range(times):
                        connection.sendall(body)
                except OSError:
                    pass  # it has read enough

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        service = serve(llm_service="ollama", ollama_base_url=url)
        answered = service.client.get("/ready")
        thread.join(60)
        assert not thread.is_alive()
    assert answered.status_code == 503
    return str(answered.json()["detail"])


def test_ready_bears_a_wrong_content_encoding(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n"
    assert "not Ollama" in ready_of(serve, head, b"{}")


def test_ready_does_not_read_an_endless_list(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert "not Ollama" in ready_of(serve, head, b" " * 2**20, times=2000)


def test_ready_says_that_nothing_could_be_reached(serve: Serve) -> None:
    service = serve(llm_service="ollama", ollama_base_url="http://127.0.0.1:9")
    detail = service.client.get("/ready").json()["detail"]
    assert "Connect call failed" in detail and "accepts" not in detail


def test_tokens_that_come_in_time_are_no_time_out(serve: Serve, ollama: OllamaStandIn) -> None:
    ollama.answer = tokens(*"abcdefgh", delay=0.2)
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, first_token_timeout=1.0)
    assert service.client.post("/generate", json=PROMPT).json() == {"response": "abcdefgh"}


def test_thinking_counts_as_a_token_for_the_timeouts(serve: Serve, ollama: OllamaStandIn) -> None:
    service = serve(
        llm_service="ollama", ollama_base_url=ollama.url, first_token_timeout=3, idle_timeout=60
    )
    ollama.answer = tokens("Blue.", thinking=("H", "m", "m"), delay=1.2)
    response = service.client.post("/generate", json={"prompt": "Why?"})
    assert response.json() == {"response": "Blue."}
    assert service.entry()["ttft_ms"] < 3000 < service.entry()["duration_ms"]


def test_lines_may_be_cut_anywhere(vault: Service, ollama: OllamaStandIn) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        for text in ("日本", " 😀"):
            for byte in talk.encode(response=text, done=False):
                await talk.chunk(bytes([byte]))
        await talk.chunk(b"\n\n")
        await talk.done()

    ollama.answer = answer
    response = vault.client.post("/generate", json={"prompt": "Why?"})
    assert response.json() == {"response": "日本 😀"}


def test_lines_of_several_megabytes(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.answer = tokens("é" * 3_000_000, "!")
    assert vault.client.post("/stream", json={"prompt": "?"}).text == "é" * 3_000_000 + "!"
    assert len(vault.entry()["response"]) == 3_000_001


def test_what_ends_with_a_long_line_in_one_read_is_whole(
    vault: Service, ollama: OllamaStandIn
) -> None:
    async def answer(talk: Conversation) -> None:
        long, more = talk.encode(response="x" * 10**6), talk.encode(response="y") * 1000
        await talk.start()
        await talk.chunk(long + more + talk.encode(response="z", done=True))
        await talk.raw(b"0\r\n\r\n")

    ollama.answer = answer
    text = "x" * 10**6 + "y" * 1000 + "z"
    assert vault.client.post("/stream", json={"prompt": "?"}).text == text
    assert [entry["response"] for entry in vault.entries] == [text]


def test_last_line_needs_no_counts_and_no_line_end(vault: Service, ollama: OllamaStandIn) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.json(200, {"model": "tinyllama", "response": "", "done": True})

    ollama.answer = answer
    assert vault.client.post("/generate", json={"prompt": "?"}).json() == {"response": ""}
    assert vault.client.post("/stream", json={"prompt": "?"}).content == b""
    for entry in vault.entries:
        assert entry["status"] == "ok"
        assert entry["prompt_tokens"] is None and entry["ttft_ms"] is None


def test_what_comes_after_the_last_line_is_no_part_of_the_answer(
    vault: Service, ollama: OllamaStandIn
) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        last = talk.encode(response="!", done=True)
        await talk.chunk(last + talk.encode(response="more", done=False))
        await talk.raw(b"0\r\n\r\n")

    ollama.answer = answer
    assert vault.client.post("/generate", json={"prompt": "?"}).json() == {"response": "!"}

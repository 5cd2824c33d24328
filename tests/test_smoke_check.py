"""The smoke check tells a user what is wrong, in one line and by its exit status."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, Serve, Service
from tests.ollama_stand_in import (
    Behaviour,
    Conversation,
    OllamaStandIn,
    cut,
    like_ollama,
    refuse,
    then,
    tokens,
)

ROOT = Path(__file__).parent.parent


def smoke_check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COV")}
    return subprocess.run(
        [sys.executable, "test_service.py", *arguments],
        cwd=ROOT,
        env=coverage | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def failure(run: subprocess.CompletedProcess[str]) -> str:
    """Return the reason that the command gave up with."""
    assert run.returncode == 1, run.stdout + run.stderr
    (line,) = run.stderr.splitlines()
    return line


def test_a_healthy_service_passes_and_the_stream_is_shown(serve: Serve) -> None:
    service = serve(stub_delay=0.01)
    run = smoke_check(service.url)
    assert run.returncode == 0, run.stderr
    assert "/api/chat" not in run.stdout
    first, second = service.entries
    assert f"{len(first['response'])} characters" in run.stdout
    assert second["response"].split("\n")[0] in run.stdout
    assert "pieces, the first after" in run.stdout


def test_the_key_goes_along(serve: Serve) -> None:
    service = serve(api_key="secret")
    assert smoke_check(service.url, MINIVAULT_API_KEY="secret").returncode == 0
    assert "401" in failure(smoke_check(service.url))


def test_nobody_there_is_said_after_the_wait() -> None:
    run = smoke_check("http://127.0.0.1:9", "--wait", "0.1")
    assert "up to 0.1 s" in run.stdout
    assert "nothing answers at http://127.0.0.1:9" in failure(run)


def test_a_service_that_is_not_ready_says_why(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.models = []
    assert "ollama pull tinyllama" in failure(smoke_check(vault.url, "--wait", "0.1"))


def test_an_error_answer_is_the_reason(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.answer = refuse(500, "out of memory")
    assert "out of memory" in failure(smoke_check(vault.url))


def all_at_once(*texts: str) -> Behaviour:
    """Answer as something in between does that holds a stream back to its end."""

    async def answer(talk: Conversation) -> None:
        await asyncio.sleep(1)
        await talk.start()
        lines = [talk.encode(response=text, done=False) for text in texts]
        await talk.chunk(b"".join([*lines, talk.encode(response="", done=True)]))
        await talk.raw(b"0\r\n\r\n")

    return answer


def test_a_stream_that_was_held_back_is_none(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.answer = all_at_once("all", "at", "once")
    assert "one piece" in failure(smoke_check(vault.url))


def test_a_quick_answer_may_come_in_one_piece(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.answer = tokens("all at once")
    run = smoke_check(vault.url)
    assert "1 pieces, the first after" in run.stdout, run.stderr


def test_an_empty_answer_is_said_to_be_empty(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.answer = tokens()
    assert "/generate gave an empty answer" in failure(smoke_check(vault.url))
    answers = iter([tokens("Blue"), tokens()])

    async def answer(talk: Conversation) -> None:
        await next(answers)(talk)

    ollama.answer = answer
    assert "/stream gave an empty answer" in failure(smoke_check(vault.url))


def test_the_gateway_is_asked_where_it_answers(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.answer = like_ollama
    run = smoke_check(vault.url)
    assert run.returncode == 0, run.stderr
    assert "/api/chat" in run.stdout and "from tinyllama" in run.stdout
    assert vault.entries[-1]["endpoint"] == "/api/chat"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "SSL_CERT_FILE"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_proxies_and_certificates_of_the_environment_are_left_alone(
    serve: Serve, variable: str, value: str
) -> None:
    assert smoke_check(serve().url, **{variable: value}).returncode == 0


def test_a_key_that_no_header_can_carry_is_the_reason() -> None:
    run = smoke_check("http://127.0.0.1:9", MINIVAULT_API_KEY="clé")
    assert "MINIVAULT_API_KEY is not ASCII" in failure(run)


def test_a_broken_stream_is_the_reason(vault: Service, ollama: OllamaStandIn) -> None:
    answers = iter([tokens("Blue"), then("Blue", " is", end=cut)])

    async def answer(talk: Conversation) -> None:
        await next(answers)(talk)

    ollama.answer = answer
    assert "incomplete" in failure(smoke_check(vault.url))


def test_something_else_is_not_taken_for_minivault(ollama: OllamaStandIn) -> None:
    assert "without a text" in failure(smoke_check(ollama.url, "--wait", "0.1"))


def test_pytest_does_not_collect_it() -> None:
    options = ["-p", "xdist", "-n0", "--collect-only", "-q", ".", "--ignore=tests"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # they take longest
        capture_output=True,
        text=True,
        timeout=5 * DEADLINE,
    )
    assert run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, run.stdout

"""What the service prints of failures: a line each with the request's id, and nothing private."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEADLINE, Serve, eventually
from tests.ollama_stand_in import Behaviour, Conversation, OllamaStandIn, hang, junk, refuse, then
from tests.processes import BIN, GRACE, SERVE, Process, process

KEY = "a-key-that-nobody-guesses"
SECRET = "what-nobody-else-may-read"
ASK = {"prompt": SECRET, "system": SECRET}
AUTH = {"Authorization": f"Bearer {KEY}"}
JSON = {"Content-Type": "application/json"}
QUIET = [*SERVE, *GRACE]
SETS_TIMEOUTS = {"MINIVAULT_FIRST_TOKEN_TIMEOUT": "0.5", "MINIVAULT_IDLE_TIMEOUT": "0.5"}
COMMANDS = {
    "quiet": QUIET,
    "uvicorn's own": [word for word in QUIET if word != "--no-access-log"],
    **{
        name: [*(word for word in QUIET if word != "--no-access-log"), "--log-config", name]
        for name in ("deploy/logging.json", "deploy/logging-jsonl.json")
    },
}


def quoting(status: int) -> Behaviour:
    """Refuse in words that quote the prompt."""
    return refuse(status, f"bad prompt: {SECRET}")


async def quoting_junk(talk: Conversation) -> None:
    """Answer with something that is not the protocol and quotes the prompt."""
    await talk.start()
    await talk.chunk(f"<html>{SECRET}</html>\n".encode())
    await talk.raw(b"0\r\n\r\n")


FAILURES: list[tuple[Behaviour, int, str]] = [
    (quoting(400), 400, "RequestRefusedError"),
    (quoting(404), 503, "DefaultModelNotFoundError"),
    (quoting(503), 503, "ServiceBusyError"),
    (quoting(500), 502, "BrokenAnswerError"),
    (quoting_junk, 502, "BrokenAnswerError"),
    (then(end=junk), 502, "BrokenAnswerError"),
    (hang, 504, "TokenTimeoutError"),
]


@pytest.fixture(params=COMMANDS)
def service(
    request: pytest.FixtureRequest, tmp_path: Path, ollama: OllamaStandIn
) -> Iterator[Process]:
    """A service with a key, printing in one of the ways that there are."""
    environment = {
        **ollama.environment,
        "MINIVAULT_API_KEY": KEY,
        "MINIVAULT_MAX_PROMPT_BYTES": "5000",
        **SETS_TIMEOUTS,
    }
    with process(COMMANDS[request.param], tmp_path / "logs", **environment) as service:
        yield service


def lines_with(output: str, id: str) -> list[str]:
    """Return what was printed about a request."""
    return [line for line in output.splitlines() if id in line]


def test_a_failure_is_a_line_with_its_id_and_nothing_private(
    service: Process, ollama: OllamaStandIn
) -> None:
    with httpx.Client(base_url=service.url, headers=AUTH, timeout=DEADLINE) as client:
        for answer, status, kind in FAILURES:
            ollama.answer = answer
            for path in ("/generate", "/stream"):
                response = client.post(path, json=ASK)
                assert response.status_code == status, response.text
                id = response.headers["x-request-id"]
                (line,) = eventually(lambda: lines_with(service.output, id))
                assert f"request {id} failed with {status}: {kind}" in line
        ollama.answer = then(SECRET, end=hang)
        response = client.post("/stream", json=ASK, headers={"Accept": "application/x-ndjson"})
        id = response.headers["x-request-id"]
        (line,) = eventually(lambda: lines_with(service.output, id))
        assert f"request {id} broke off: TokenTimeoutError" in line
        ollama.answer = quoting(500)
        response = client.post(
            "/api/chat", json={"messages": [{"role": "user", "content": SECRET}]}
        )
        id = response.headers["x-request-id"]
        (line,) = eventually(lambda: lines_with(service.output, id))
        assert f"request {id} failed; its log entry says why" in line
        for status, response in refused(client):
            assert response.status_code == status, response.text
            assert not lines_with(service.output, response.headers["x-request-id"])
    assert service.stop(signal.SIGTERM) == 0
    for word in (KEY, SECRET, "Traceback"):
        assert word not in service.output
    if service.output.startswith("{"):
        levels = {json.loads(line)["level"] for line in service.output.splitlines()}
        assert levels == {"INFO", "WARNING"}


def refused(client: httpx.Client) -> list[tuple[int, httpx.Response]]:
    """Ask for what is refused before anything is asked of Ollama; return the answers."""
    wrong = {"Authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
    foreign = {"Host": f"{SECRET}.example"}
    bad = b'"%s\xff"' % SECRET.encode()
    return [
        (401, client.post("/generate", json=ASK, headers=wrong)),
        (401, client.post("/api/chat", json=ASK, headers=wrong)),
        (422, client.post("/generate", json={**ASK, SECRET: SECRET})),
        (413, client.post("/generate", json={"prompt": SECRET * 500})),
        (400, client.post("/generate", content=bad, headers=JSON)),
        (400, client.post("/generate", json=ASK, headers=foreign)),
        (403, client.post("/api/pull", json={"model": SECRET})),
    ]


def test_what_keeps_a_prompt_from_being_asked_is_a_line_too(
    serve: Serve, ollama: OllamaStandIn, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    unreachable = serve(llm_service="ollama", ollama_base_url="http://127.0.0.1:9")
    full = serve(llm_service="ollama", ollama_base_url=ollama.url, max_concurrency=1)
    unwritable = serve(log_dir=tmp_path / "other")
    unwritable.log_dir.rename(tmp_path / "moved")
    unwritable.log_dir.write_text("a file where the folder should be")
    ollama.answer = then("Blue", end=hang)
    with full.client.stream("POST", "/stream", json=ASK):
        ids = [
            service.client.post("/generate", json=ASK).headers["x-request-id"]
            for service in (unreachable, full, unwritable)
        ]
    printed = [record.getMessage() for record in caplog.records if record.name == "minivault"]
    assert [line for line in printed if " failed with " in line] == [
        f"request {ids[0]} failed with 503: ServiceUnreachableError",
        f"request {ids[1]} failed with 503: TooManyRequestsError",
        f"request {ids[2]} failed with 503: LogUnavailableError",
    ]
    assert SECRET not in caplog.text and "Traceback" not in caplog.text


HOSTILE = "\x9b31m\x1b[2J\x07"


@pytest.mark.parametrize("config", [[], ["--log-config", "deploy/logging-jsonl.json"]])
def test_controls_and_searches_are_not_printed(tmp_path: Path, config: list[str]) -> None:
    command = [word for word in SERVE if word != "--no-access-log"]
    with process([*command, *config], tmp_path / "logs") as service:
        with httpx.Client(base_url=service.url, timeout=DEADLINE) as client:
            headers = {"X-Forwarded-For": HOSTILE.encode("latin-1")}
            client.get("/log", params={"q": SECRET}, headers=headers)
            client.get("/api/tags", params={"key": SECRET})
        line = eventually(lambda: next(x for x in service.output.splitlines() if "/api/tags" in x))
        assert line and service.stop(signal.SIGTERM) == 0
    output = service.output
    assert SECRET not in output
    assert not {*HOSTILE, "\x9b"} - {*"31m[2J"} & {*output}
    assert "31m" in output, "the address is printed, escaped"


@pytest.mark.parametrize("command", [["uvicorn", "app:app"], ["fastapi", "run", "app.py"]])
def test_searches_are_not_printed_however_it_was_started(
    tmp_path: Path, command: list[str]
) -> None:
    program, *arguments = command
    with process([str(BIN / program), *arguments], tmp_path / "logs") as service:
        with httpx.Client(base_url=service.url, timeout=DEADLINE) as client:
            client.get("/log", params={"q": SECRET})
        eventually(lambda: "/log" in service.output)
        assert service.stop(signal.SIGTERM) == 0
    assert SECRET not in service.output

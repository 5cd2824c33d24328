"""OpenAPI tells the truth: the document is valid, and the live service answers as it says."""

import os
import re
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app import STATUS
from protocols.registry import endpoints
from tests.conftest import Serve, Service, Way
from tests.ollama_stand_in import Conversation, OllamaStandIn, refuse
from tests.ollama_wires import error
from tests.processes import BIN
from tests.ways import http, send

KEY = "a-key-that-nobody-guesses"
CONFIG = Path(__file__).with_name("schemathesis.toml")
ASK = {"prompt": "Why?"}
NOBODY_READS = 499

Document = dict[str, Any]


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    """Yield every path and what is said of it."""
    for path, methods in document["paths"].items():
        yield from ((path, operation) for operation in methods.values())


def check(document: Document, schema: Document, value: Any) -> None:
    """Raise where the value is not as the schema says."""
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


@pytest.fixture
def document(serve: Serve) -> Document:
    """What a live service says of itself."""
    said: Document = serve().client.get("/openapi.json").json()
    return said


def test_the_document_is_valid(document: Document) -> None:
    validate(document)


def test_examples_are_as_the_document_says(document: Document) -> None:
    answers = [answer for _, said in operations(document) for answer in said["responses"].values()]
    contents = [said for answer in answers for said in answer.get("content", {}).values()]
    for said in contents:
        if "example" in said:
            check(document, said["schema"], said["example"])
    schemas = document["components"]["schemas"].values()
    fields = chain.from_iterable(schema.get("properties", {}).values() for schema in schemas)
    for schema in (*schemas, *fields):
        for example in schema.get("examples", ()):
            check(document, schema, example)
    assert sum("example" in said for said in contents) > 30
    assert all(
        "examples" in document["components"]["schemas"][name] for name in ("Prompt", "Entry")
    )


def test_every_error_of_the_table_is_in_the_document(document: Document) -> None:
    statuses = {str(status) for status in STATUS.values() if status != NOBODY_READS}
    for path in ("/generate", "/stream"):
        said = document["paths"][path]["post"]["responses"]
        assert said.keys() == statuses | {"200", "401", "413", "422"}


def test_every_answer_names_its_headers(document: Document) -> None:
    for _, operation in operations(document):
        for status, answer in operation["responses"].items():
            assert "X-Request-ID" in answer["headers"]
            assert ("Retry-After" in answer["headers"]) == (status == "503")
            assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")


def test_ids_are_the_names_of_functions_and_tags_are_one_word(document: Document) -> None:
    for _, operation in operations(document):
        assert operation["operationId"].isidentifier() and len(operation["operationId"]) < 30
        assert all(tag.isalpha() for tag in operation["tags"])


def test_the_request_that_is_shown_for_each_recorded_path_works(
    document: Document, through: Way
) -> None:
    """They stand in a table: model, prompt, and nothing that would have to be made up."""
    table = document["info"]["description"].splitlines()
    rows = [re.split(r" ?\| ?", line) for line in table if line.startswith("| `/")]
    assert [row[1].strip("`") for row in rows] == [endpoint.path for endpoint, _ in endpoints()]
    for _, path, link, body, _ in rows:
        assert re.fullmatch(r"\[[A-Z][a-z ]+\]\(https://\S+\)", link)
    rows = [row for row in rows if row[3] != "a form with `file` and `model`"]
    for _, path, _, body, _ in rows:
        request = http("POST", path.strip("`"), body.strip("`").encode())
        assert send(through.url, request).status == 200, path
    assert through.service and len(through.service.entries) == len(rows)


async def not_found(talk: Conversation) -> None:
    """Answer as Ollama does where a model is not there."""
    await refuse(404, "model 'nope' not found")(talk)


def test_real_errors_are_as_the_document_says(serve: Serve, ollama: OllamaStandIn) -> None:
    settings = {"llm_service": "ollama", "ollama_base_url": ollama.url, "max_prompt_bytes": 5000}
    client = serve(**settings, api_key=KEY).client
    stub = serve().client
    document = stub.get("/openapi.json").json()
    auth = {"authorization": f"Bearer {KEY}"}
    unknown = {f"unknown{n}": n for n in range(50)}
    ollama.answer = not_found
    answers = [
        (400, client.post("/generate", json=ASK, headers={**auth, "host": "evil.example"})),
        (400, stub.get("/health", headers={"host": "evil.example"})),
        (400, stub.post("/stream", content=b"\xff", headers={"content-type": "application/json"})),
        (404, client.post("/stream", json={**ASK, "model": "nope"}, headers=auth)),
        (422, client.post("/generate", json={**ASK, **unknown}, headers=auth)),
        (422, stub.post("/generate", content=b"{}")),
        (503, client.post("/generate", json=ASK, headers=auth)),
    ]
    answers.append((401, client.post("/generate", json=ASK)))
    answers.append((413, client.post("/generate", json={"prompt": "x" * 5000}, headers=auth)))
    for status, answer in answers:
        assert answer.status_code == status, answer.text
        method = answer.request.method.lower()
        said = document["paths"][answer.request.url.path][method]["responses"][str(status)]
        check(document, said["content"]["application/json"]["schema"], answer.json())
        assert all(name in answer.headers for name in said["headers"])


async def tolerant(talk: Conversation) -> None:
    """Answer as Ollama does; refuse what the stand-in makes no sense of."""
    talk.headers.setdefault("origin", "http://localhost")
    try:
        pieces = talk.wire.encode()
    except (AttributeError, LookupError, TypeError, ValueError):
        pieces = error(talk.path, 400, "invalid request").encode()
    for data in pieces:
        await talk.raw(data)


def attack(service: Service, *options: str) -> int:
    """Let Schemathesis ask what it likes; return how often it did, once all was as documented."""
    command = [str(BIN / "st"), "--no-color", "--config-file", str(CONFIG), "run"]
    command += [f"{service.url}/openapi.json", *options]
    command += ["--header", f"Authorization: Bearer {KEY}"]
    here = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    cwd = service.log_dir
    done = subprocess.run(command, cwd=cwd, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.search(r"(\d+) generated", done.stdout)
    assert count, done.stdout
    return int(count[1])


@pytest.fixture
def attacked(serve: Serve, ollama: OllamaStandIn) -> Service:
    """A service with a key, in front of an Ollama that answers anything."""
    ollama.answer = tolerant
    keys = {"api_key": KEY, "log_key": KEY}
    return serve(llm_service="ollama", ollama_base_url=ollama.url, **keys)


def test_schemathesis_finds_nothing(attacked: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack(attacked, "--max-examples", "4") > 100
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.long
def test_schemathesis_finds_nothing_in_many_tries(attacked: Service) -> None:
    print(attack(attacked, "--max-time", "120"), "requests by Schemathesis")


def test_documentation_knows_both_endpoints_and_the_formats(serve: Serve) -> None:
    service = serve()
    assert service.client.get("/docs").status_code == 200
    paths = service.client.get("/openapi.json").json()["paths"]
    formats = paths["/stream"]["post"]["responses"]["200"]["content"]
    assert {"text/plain", "text/event-stream", "application/x-ndjson"} <= formats.keys()
    assert paths["/generate"]["post"]["responses"]["503"]

"""What clients send reaches Ollama as it was sent and is recorded, or is refused in good words."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import zstandard
from openai import OpenAI

from tests.conftest import Serve, Way
from tests.ollama_stand_in import Conversation, OllamaStandIn, like_ollama, refuse
from tests.ways import (
    PATHS,
    PROMPT,
    ask,
    at_most_more_memory,
    check_entries,
    connect,
    exchange,
    http,
    post,
    read_all,
    send,
    shaped,
    with_headers,
)

KEY = "s3cret"
EVERY_PATH = pytest.mark.parametrize("path", PATHS)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@EVERY_PATH
@pytest.mark.parametrize("encoding", PACKERS)
def test_packed_body_goes_on_packed_and_is_recorded_unpacked(
    way: Way, path: str, encoding: str
) -> None:
    """Ollama unpacks zstd, on `/v1/responses`; elsewhere its own refusal comes back."""
    body = ask(path, stream=True)
    packed = PACKERS[encoding](json.dumps(body).encode())
    request = http("POST", path, packed, f"Content-Encoding: {encoding}")
    answer = send(way.url, request)
    (talk,) = way.ollama.requests
    assert (talk.content, talk.headers["content-encoding"]) == (packed, encoding)
    assert answer.status == (200 if (path, encoding) == ("/v1/responses", "zstd") else 400)
    if way.service:
        entry = way.service.entry()
        assert entry["request"] == body and entry["prompt"] == PROMPT
        assert entry["status"] == ("ok" if answer.status == 200 else "error")
    assert answer == send(way.ollama.url, request)


def bomb(encoding: str) -> bytes:
    """Return a small body that unpacks to 160 MB of JSON."""
    packer: Any = zlib.compressobj(1, zlib.DEFLATED, 31)
    if encoding == "zstd":
        packer = zstandard.ZstdCompressor().compressobj()
    packed: bytes = packer.compress(b'{"model": "tinyllama", "input": "')
    for _ in range(160):
        packed += packer.compress(b"x" * 1_000_000)
    packed += packer.compress(b'"}') + packer.flush()
    return packed


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_bomb_is_passed_on_and_not_unpacked_whole(through: Way, encoding: str) -> None:
    through.ollama.answer = refuse(400, "too large")
    packed = bomb(encoding)
    request = http("POST", "/v1/responses", packed, f"Content-Encoding: {encoding}")
    with at_most_more_memory(100_000):
        answer = send(through.url, request)
    assert (answer.status, json.loads(answer.body)) == (400, {"error": "too large"})
    assert through.ollama.requests[0].content == packed
    assert through.service and through.service.entry()["status"] == "error"


NOT_JSON = [b'{"model":', b"", b"\xff\xfe\x00", b"[" * 50_000, b'{"model": NaN, "x": "\\ud800"']


@EVERY_PATH
def test_what_is_not_json_gets_ollamas_own_answer_and_is_kept_as_text(way: Way, path: str) -> None:
    for number, content in enumerate(NOT_JSON, 1):
        answer = send(way.url, http("POST", path, content))
        assert answer.status == 400 and shaped(path, answer.body)
        assert answer == send(way.ollama.url, http("POST", path, content))
        if way.service:
            assert len(way.service.entries) == number
            entry = way.service.entries[-1]
            assert entry["id"] == answer.request_id and entry["status"] == "error"
            assert (entry["request"] or "") == content.decode(errors="replace")


STRANGE: list[Any] = [
    [],
    5,
    None,
    {"model": 5, "prompt": 5, "messages": 5, "input": 5, "system": 5, "options": 5, "tools": 5},
    {"messages": [5, None, {"role": 5}, {"content": 5}], "input": [5, {"content": [5]}]},
    {"prompt": "\ud800", "messages": [{"role": "user", "content": "\ud800"}], "input": "\ud800"},
]


@EVERY_PATH
def test_strange_json_is_passed_on_as_well(through: Way, path: str) -> None:
    through.ollama.answer = refuse(400, "no")
    for number, body in enumerate(STRANGE, 1):
        answer = send(through.url, post(path, body))
        assert (answer.status, json.loads(answer.body)) == (400, {"error": "no"})
        assert json.loads(through.ollama.requests[-1].content) == body
        assert through.service and len(through.service.entries) == number


def test_a_client_that_waits_for_100_is_told_to_go_on(way: Way) -> None:
    request = post("/api/chat", ask("/api/chat"), "Expect: 100-continue")
    head, body = request.split(b"\r\n\r\n", 1)
    with connect(way.url) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(body)
        assert b'"done":true' in read_all(connection)
    check_entries(way, 1)


def test_a_chunked_request_is_read_whole(way: Way) -> None:
    body = json.dumps(ask("/v1/chat/completions")).encode()
    head = http("POST", "/v1/chat/completions", b"").replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    )
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert send(way.url, head + chunks).status == 200
    check_entries(way, 1)


@EVERY_PATH
def test_a_client_of_http_1_0_gets_the_same_body(through: Way, path: str) -> None:
    body = ask(path, stream=True)
    old = post(path, body).replace(b" HTTP/1.1", b" HTTP/1.0", 1)
    assert send(through.url, old).body == send(through.ollama.url, post(path, body)).body


def test_a_query_goes_on_and_is_no_part_of_the_endpoint(way: Way) -> None:
    """Anthropic's SDK asks `/v1/messages?beta=true` for what is in beta."""
    assert send(way.url, post("/v1/messages?beta=true", ask("/v1/messages"))).status == 200
    assert way.ollama.requests[0].path == "/v1/messages?beta=true"
    if way.service:
        assert way.service.entry()["endpoint"] == "/v1/messages"


STAYS = ["Keep-Alive: timeout=5", "X-Hop: 1", "TE: trailers", "Upgrade: h2c", "Accept-Encoding: br"]
GOES = ["User-Agent: Test/1", "Anthropic-Version: 2023-06-01", "X-Stainless-Lang: x", "Accept: a/b"]
GOES += ["Origin: http://localhost:3000", "Authorization: Bearer Other", "X-Api-Key: Another"]


def names(head: bytes) -> set[str]:
    """Return the lines of a request's head, names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower() + ": " + value for name, value in (x.split(": ") for x in lines if x)}


@pytest.mark.parametrize("path", [*PATHS, "/api/show"])
def test_headers_of_the_hop_stay_and_all_others_go_on(through: Way, path: str) -> None:
    request = post(path, ask(path) if path in PATHS else {}, *STAYS, *GOES)
    request = request.replace(b"Connection: close", b"Connection: close, X-Hop")
    assert send(through.url, request).status == 200
    (talk,) = through.ollama.requests
    got = names(talk.head)
    assert names("\r\n".join(["", *GOES]).encode()) <= got
    assert f"host: {through.ollama.url.removeprefix('http://')}" in got
    sent = {line.split(": ")[0] for line in got}
    assert not sent & {"keep-alive", "x-hop", "te", "upgrade", "transfer-encoding"}
    assert "accept-encoding: br" not in got
    assert [line for line in got if line.startswith("content-type")] == [
        "content-type: application/json"
    ]


def test_headers_of_an_answers_hop_stay_and_all_others_come(through: Way) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.raw(
            b"HTTP/1.1 200 OK\r\nX-Own: 1\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
            b"Keep-Alive: timeout=5\r\nVary: A\r\nVary: B\r\nServer: x\r\nDate: then\r\n"
            b"X-Request-ID: theirs\r\nContent-Length: 2\r\n\r\n{}"
        )

    through.ollama.answer = answer
    got = send(through.url, post("/api/show", {}))
    known = [("content-length", "2"), ("server", "x"), ("vary", "A"), ("vary", "B"), ("x-own", "1")]
    assert got.headers == known
    assert got.request_id and "theirs" not in got.request_id


def test_the_key_opens_in_either_form_and_stays_here(serve: Serve, ollama: OllamaStandIn) -> None:
    ollama.answer = like_ollama
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, api_key=KEY)
    forms = (f"Authorization: Bearer {KEY}", f"X-Api-Key: {KEY}")
    for path, form in product(PATHS, forms):
        assert send(service.url, post(path, ask(path), form)).status == 200
        head = ollama.requests[-1].head.lower()
        assert b"authorization" not in head and b"x-api-key" not in head
        for wrong in ("Authorization: Bearer no", "X-Api-Key: no", "X-Other: none"):
            answer = send(service.url, post(path, ask(path), wrong))
            assert answer.status == 401 and "MINIVAULT_API_KEY" in shaped(path, answer.body)
            assert ("www-authenticate", "Bearer") in answer.headers
    assert len(ollama.requests) == len(service.entries) == len(PATHS) * len(forms)
    assert KEY not in json.dumps(service.entries)


CHANGES = ("push", "create", "copy", "blobs/sha256:0", "signout")
ELSEWHERE = [("POST", f"/api/{name}") for name in CHANGES]
ELSEWHERE += [("DELETE", "/api/delete"), ("DELETE", "/api/user/keys/abc")]
AROUND = ["/api/../api/pull", "/api//pull", "//api/pull", "/api/%70ull", "/API/pull"]
AROUND += ["/api/chat/../pull", "/api/pull/", "/api/chat%2f..%2fpull", "/v1/models/../../api/pull"]


def test_what_changes_models_is_done_at_ollama_itself(through: Way) -> None:
    for method, path in ELSEWHERE:
        answer = send(through.url, http(method, path, b"{}" if method == "POST" else b""))
        assert answer.status == 403, path
        assert "call Ollama directly" in shaped(path, answer.body)
    for path in AROUND:
        for method in ("POST", "GET"):
            assert send(through.url, http(method, path)).status in (301, 307, 403, 404, 405), path
    assert through.ollama.requests == []
    assert through.service and through.service.entries == []


@pytest.mark.parametrize(
    "body", [b'{"model":"llama3.2"}', b'{"name": "llama3.2", "stream": false}']
)
def test_a_pull_is_refused_with_the_model_and_the_command(through: Way, body: bytes) -> None:
    """`ollama run` asks for it by itself, where the model is not there."""
    answer = send(through.url, http("POST", "/api/pull", body))
    words = "model 'llama3.2' not found; pull it with `ollama pull llama3.2` where Ollama runs"
    assert (answer.status, shaped("/api/pull", answer.body)) == (403, words)
    for odd in (b"", b"[", b"[1]", b'{"model": null}', b'{"model": "' + 2**17 * b"x" + b'"}'):
        answer = send(through.url, http("POST", "/api/pull", odd))
        assert answer.status == 403 and "`ollama pull <model>`" in shaped("/api/pull", answer.body)


UNKNOWN = [("POST", "/v1/files"), ("GET", "/v1/x"), ("GET", "/api/nothing"), ("HEAD", "/api/x/y")]
OTHER_METHODS = {
    ("GET", "/api/chat"): "POST",
    ("PUT", "/v1/messages"): "POST",
    ("POST", "/api/tags"): "GET, HEAD",
    ("DELETE", "/v1/models/x"): "GET, HEAD",
    ("GET", "/api/delete"): "DELETE",
}


def test_what_ollama_does_not_have_is_its_404_or_405(through: Way) -> None:
    for method, path in UNKNOWN:
        answer = send(through.url, http(method, path))
        assert answer.status == 404, path
        assert method == "HEAD" or shaped(path, answer.body) == "404 page not found"
    for path in ("/api", "/v1"):
        assert send(through.url, http("GET", path)).status == 404
    for (method, path), methods in OTHER_METHODS.items():
        answer = send(through.url, http(method, path))
        assert (answer.status, shaped(path, answer.body)) == (405, "405 method not allowed")
        assert ("allow", methods) in answer.headers
    assert through.ollama.requests == []


SLASHES = {
    "//api/chat": "/api/chat",
    "/api//chat": "/api/chat",
    "/api/chat/": "/api/chat",
    "/v1//chat/completions": "/v1/chat/completions",
    "//v1/chat/completions//?a=%2f": "/v1/chat/completions?a=%2f",
}


def test_slashes_too_many_lead_to_the_right_path(through: Way) -> None:
    for path, right in SLASHES.items():
        answer = send(through.url, post(path, {"model": "x"}))
        assert answer.status == 307 and ("location", right) in answer.headers, path
    answer = send(through.url, http("GET", "/v1//models/"))
    assert answer.status == 301 and ("location", "/v1/models") in answer.headers
    assert send(through.url, http("GET", "/v1//nothing/")).status == 404
    with OpenAI(base_url=f"{through.url}//v1", api_key="none") as client:
        said: Any = ask("/v1/chat/completions")
        assert client.chat.completions.create(**said).choices[0].message.content
    assert through.service and through.service.entry()["status"] == "ok"


READS = [("GET", "/api/status"), ("POST", "/api/me"), ("POST", "/api/experimental/web_search")]
READS += [("POST", "/api/experimental/web_fetch"), ("HEAD", "/api/blobs/sha256:0")]
READS += [("GET", "/api/experimental/model-recommendations"), ("HEAD", "/v1/models")]


def test_what_only_reads_is_forwarded(through: Way) -> None:
    for method, path in READS:
        send(through.url, http(method, path, b"{}" if method == "POST" else b""))
    assert [(talk.method, talk.path) for talk in through.ollama.requests] == READS
    assert through.service and through.service.entries == []


PREFIXES = ["", "/behind", "/%C3%A4/a%2Fb%25bc%3Fd"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_target_stays_behind_ollamas_url(
    serve: Serve, ollama: OllamaStandIn, prefix: str
) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url + prefix)
    with OllamaStandIn() as elsewhere:
        for host in (f"@127.0.0.1:{elsewhere.port}", "@127.0.0.1:99999", "@", "@%%%"):
            for method in ("GET", "HEAD", "OPTIONS"):
                target = f"%2fv1%2fmodels%2f{host}/api/tags?x=1"
                answer = send(service.url, http(method, target, b"", "Authorization: a"))
                assert answer.status == 400, target
        for path in ("/v1/models/../../x", "/v1/models/%2e%2e/%2e%2e/x"):
            assert send(service.url, http("GET", path)).status == 404
        assert send(service.url, post("%2fapi%2fchat", {})).status == 400
        assert send(service.url, http("GET", "/api/tags?x#y")).status == 400
        assert elsewhere.requests == ollama.requests == []
    send(service.url, http("GET", "/v1/models/a%2Fb//c?d=%23&e"))
    (talk,) = ollama.requests
    assert talk.head.split()[1].decode() == f"{prefix}/v1/models/a%2Fb//c?d=%23&e"


@pytest.mark.parametrize("request_", [http("GET", "/api/version"), post("/api/chat", {})])
def test_minivault_in_front_of_itself_is_noticed(through: Way, request_: bytes) -> None:
    async def back_to_us(talk: Conversation) -> None:
        request = with_headers(talk.head + talk.content, "Connection: close")
        await talk.raw(await asyncio.to_thread(exchange, through.url, request))
        talk.writer.close()

    through.ollama.answer = back_to_us
    assert send(through.url, request_).status == 508
    assert len(through.ollama.requests) == 1

"""Traces: what a real OTLP receiver gets, and that it holds nothing of what was asked or said."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.conftest import DEADLINE, eventually, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, like_ollama, refuse, then
from tests.processes import CLIENT, GRACE, SERVE, Process, process
from tests.ways import connect, post
from tests.web.test_client import open_connections

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
CHAT = {"model": "tinyllama", "messages": [{"role": "user", "content": "a-word-of-the-prompt"}]}


class Receiver:
    """An OTLP/HTTP receiver on loopback, and what it was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        sent = self.sent

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sent.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator["Receiver"]:
        """Receive for the length of the block."""
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()

    def all_spans(self) -> list[Span]:
        """Return all spans so far."""
        exports = [
            ExportTraceServiceRequest.FromString(body)
            for path, body in [*self.sent]
            if path == "/v1/traces"
        ]
        return [
            span
            for export in exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def spans(self, route: str) -> list[Span]:
        """Return the spans of a route so far."""
        return [span for span in self.all_spans() if attributes(span).get("http.route") == route]

    def call(self, span: Span) -> Span:
        """Return the span of what the service did under that of a request, waiting for it."""
        (call,) = eventually(
            lambda: [each for each in self.all_spans() if each.parent_span_id == span.span_id]
        )
        assert call.kind == Span.SPAN_KIND_CLIENT
        return call

    def span(self, route: str) -> Span:
        """Return the only span of a route, waiting for it."""
        (span,) = eventually(lambda: self.spans(route))
        return span


def attributes(span: Span) -> dict[str, Any]:
    """Return a span's attributes."""
    return {each.key: value_of(each.value) for each in span.attributes}


def value_of(value: Any) -> Any:
    """Return what an attribute's value holds."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of traces."""
    with Receiver().running() as receiver:
        yield receiver


@contextmanager
def traced(url: str, ollama: OllamaStandIn, tmp_path: Path, **more: str) -> Iterator[Process]:
    """Run a service that sends its traces there, in front of the stand-in."""
    environment = {
        **ollama.environment,
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **more,
    }
    with process([*SERVE, *GRACE], tmp_path / "logs", **environment) as service:
        yield service


@pytest.fixture
def live(ollama: OllamaStandIn, receiver: Receiver, tmp_path: Path) -> Iterator[Process]:
    """A traced service in front of a stand-in that answers on every interface."""
    ollama.answer = like_ollama
    with traced(receiver.url, ollama, tmp_path) as service:
        yield service


@pytest.mark.parametrize("headers", [TRACEPARENT, {}], ids=["traceparent", "none"])
@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/api/chat", CHAT, "chat"),
        ("/stream", {"prompt": "a-word-of-the-prompt"}, "text_completion"),
        ("/generate", {"prompt": "a-word-of-the-prompt"}, "text_completion"),
    ],
)
def test_trace_goes_from_the_client_through_the_entry_to_ollama(
    live: Process,
    receiver: Receiver,
    ollama: OllamaStandIn,
    path: str,
    body: dict[str, Any],
    operation: str,
    headers: dict[str, str],
) -> None:
    assert CLIENT.post(live.url + path, json=body, headers=headers).status_code == 200
    (entry,) = read_log(live.log_dir)
    span = receiver.span(path)
    assert entry["trace_id"] == span.trace_id.hex()
    if headers:
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    call = receiver.call(span)
    (asked,) = ollama.requests
    carried = f"00-{span.trace_id.hex()}-{call.span_id.hex()}-"
    assert asked.headers["traceparent"].startswith(carried)
    assert asked.head.lower().count(b"traceparent") == 1
    expected = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "tinyllama",
        "gen_ai.response.model": "tinyllama",
        "gen_ai.response.finish_reasons": [entry["finish_reason"]],
        "gen_ai.usage.input_tokens": entry["prompt_tokens"],
        "gen_ai.usage.output_tokens": entry["response_tokens"],
        "server.address": "127.0.0.1",
        "server.port": int(ollama.url.rpartition(":")[2]),
    }
    if entry["ttft_ms"]:
        expected["gen_ai.response.time_to_first_chunk"] = entry["ttft_ms"] / 1000
    assert attributes(call).items() >= expected.items()
    assert (span.name, call.name) == (
        f"POST {path}",
        f"{operation} tinyllama",
    )
    ours = {"minivault.id": entry["id"], "minivault.status": "ok"}
    assert attributes(span).items() >= ours.items() <= attributes(call).items()
    assert span.status.code == call.status.code == Status.STATUS_CODE_UNSET


def test_parameters_are_those_that_are_numbers(live: Process, receiver: Receiver) -> None:
    options = {"temperature": 0.5, "top_k": 40, "num_predict": 9, "seed": 2**70, "stop": ["secret"]}
    asked = {**CHAT, "stream": True, "options": {**options, "top_p": True}}
    assert CLIENT.post(f"{live.url}/api/chat", json=asked).status_code == 200
    known = attributes(receiver.call(receiver.span("/api/chat")))
    names = "temperature", "top_k", "max_tokens", "stream", "seed", "top_p"
    values = [known.get(f"gen_ai.request.{name}") for name in names]
    assert values == [0.5, 40, 9, True, None, None] and "secret" not in str(known)


def test_names_that_others_chose_are_cut(
    live: Process, receiver: Receiver, ollama: OllamaStandIn
) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        await talk.done(model="z" * 5000, done_reason="y" * 5000)

    ollama.answer = answer
    asked = {"model": "x" * 5000, "prompt": "Why?", "stream": True}
    assert CLIENT.post(f"{live.url}/api/generate", json=asked).status_code == 200
    call = receiver.call(receiver.span("/api/generate"))
    named = attributes(call)
    assert named["gen_ai.request.model"] == "x" * 200 and call.name.endswith(" " + "x" * 200)
    assert named["gen_ai.response.model"] == "z" * 200
    assert named["gen_ai.response.finish_reasons"] == ["y" * 200]
    assert len(CLIENT.get(f"{live.url}/metrics").text) < 50_000


def test_probes_are_not_traced(live: Process, receiver: Receiver) -> None:
    for path in ("/health", "/ready", "/metrics", "/log/count"):
        CLIENT.get(live.url + path)
    assert receiver.span("/log/count")
    assert {attributes(span).get("http.route") for span in receiver.all_spans()} == {"/log/count"}


def test_failures_are_marked_and_nothing_of_contents_is_sent(
    live: Process, receiver: Receiver, ollama: OllamaStandIn
) -> None:
    secret = "a-word-of-the-prompt"
    ollama.answer = refuse(500, f"cannot {secret}")
    assert CLIENT.post(f"{live.url}/generate", json={"prompt": secret}).status_code == 502
    misspelt = {"prompt": secret, "temprature": secret}
    assert CLIENT.post(f"{live.url}/stream", json=misspelt).status_code == 422
    ollama.answer = then(secret, end=refuse(500, "no HTTP"))
    lines = {"Accept": "application/x-ndjson"}
    answer = CLIENT.post(f"{live.url}/stream", json={"prompt": secret}, headers=lines)
    assert "broke off" in answer.text
    failed = receiver.span("/generate")
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert receiver.call(failed).status.code == Status.STATUS_CODE_ERROR
    broken = eventually(
        lambda: [
            span
            for span in receiver.spans("/stream")
            if attributes(span).get("minivault.status") == "error"
        ]
    )
    assert broken[0].status.code == Status.STATUS_CODE_ERROR
    assert not [path for path, body in receiver.sent if secret.encode() in body]


@pytest.mark.parametrize("begins", [True, False])
def test_client_that_leaves_is_still_seen_and_no_error(
    live: Process, receiver: Receiver, ollama: OllamaStandIn, begins: bool
) -> None:
    ollama.answer = then("Blue", end=hang) if begins else hang
    with connect(live.url) as client:
        client.sendall(post("/stream", {"prompt": "x"}))
        eventually(lambda: len(ollama.requests) == 1)
        if begins:
            client.recv(1)
    assert ollama.left.acquire(timeout=DEADLINE)
    span = receiver.span("/stream")
    for each in (span, receiver.call(span)):
        assert attributes(each)["minivault.status"] == "cancelled"
        assert each.status.code != Status.STATUS_CODE_ERROR


def test_client_that_takes_nothing_is_still_dropped(
    receiver: Receiver, ollama: OllamaStandIn, tmp_path: Path
) -> None:
    """The limit is set on the connection's own socket, which telemetry hides."""
    ollama.answer = then(*["x" * 100_000] * 300, end=hang)
    limit = {"MINIVAULT_CLIENT_TIMEOUT": "1"}
    with traced(receiver.url, ollama, tmp_path, **limit) as service:
        port = int(service.url.rpartition(":")[2])
        with CLIENT.stream("POST", f"{service.url}/stream", json={"prompt": "x"}) as answer:
            pieces = answer.iter_bytes()
            next(pieces)
            (entry,) = eventually(lambda: read_log(service.log_dir))
            assert entry["status"] == "cancelled"
            eventually(lambda: open_connections(port) == 0)


def test_receiver_that_is_away_costs_no_answer_and_no_stop(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.answer = like_ollama
    with traced("http://127.0.0.1:9", ollama, tmp_path) as service:
        assert CLIENT.post(f"{service.url}/generate", json={"prompt": "x"}).status_code == 200
        assert service.stop(15) == 0


def test_without_its_variables_there_is_no_tracing(
    ollama: OllamaStandIn, receiver: Receiver, tmp_path: Path
) -> None:
    ollama.answer = like_ollama
    with traced(receiver.url, ollama, tmp_path, FASTAPI_OTEL_AUTO_CONFIGURE="") as service:
        answer = CLIENT.post(f"{service.url}/api/chat", json=CHAT, headers=TRACEPARENT)
        assert answer.status_code == 200
        assert service.stop(15) == 0
        (entry,) = read_log(service.log_dir)
    assert entry["trace_id"] is None
    assert ollama.requests[0].headers["traceparent"] == TRACEPARENT["traceparent"], "unchanged"
    assert receiver.sent == []

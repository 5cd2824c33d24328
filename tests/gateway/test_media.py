"""Sound, pictures and embeddings: forwarded as they are, and recorded for what they are."""

import base64
import json
from typing import Any

import pytest
from openai import OpenAI

from tests.conftest import Serve, Service, Way, eventually
from tests.ollama_stand_in import Behaviour, Conversation, OllamaStandIn
from tests.ollama_wires import EVENTS, JSON, Wire
from tests.ways import ask, http, post, send

SOUND = bytes(range(256)) * 8
PICTURE = base64.b64encode(b"a picture").decode()


def answering(content_type: str, *pieces: bytes, is_chunked: bool = False) -> Behaviour:
    """Answer with these bytes."""

    async def answer(talk: Conversation) -> None:
        for data in Wire(200, content_type, pieces, is_chunked=is_chunked).encode():
            await talk.raw(data)

    return answer


def transcribe(way: Way, **options: Any) -> Any:
    """Have the sound written down by OpenAI's own SDK: the text, or every event of a stream."""
    with OpenAI(base_url=f"{way.url}/v1", api_key="none") as client:
        file = ("hello.wav", SOUND, "audio/wav")
        answer = client.audio.transcriptions.create(model="whisper", file=file, **options)
        return list(answer) if options.get("stream") else answer


def test_a_transcription_is_recorded_with_the_sound(through: Way) -> None:
    through.ollama.answer = answering(JSON, b'{"text":"Good morning."}')
    assert transcribe(through, prompt="A greeting").text == "Good morning."
    assert through.service
    entry = through.service.entry()
    known = {"endpoint": "/v1/audio/transcriptions", "status": "ok", "response": "Good morning."}
    assert known.items() <= entry.items() and entry["prompt"] == "A greeting"
    sound = {"filename": "hello.wav", "base64": base64.b64encode(SOUND).decode()}
    assert entry["request"] == {"model": "whisper", "file": sound, "prompt": "A greeting"}
    assert entry["model"] == "whisper"
    (talk,) = through.ollama.requests
    assert SOUND in talk.content and "multipart/form-data" in talk.headers["content-type"]


def test_a_transcription_as_text_is_recorded(through: Way) -> None:
    through.ollama.answer = answering("text/plain; charset=utf-8", b"Good morning.\n")
    assert transcribe(through, response_format="text") == "Good morning.\n"
    assert through.service
    entry = through.service.entry()
    assert (entry["status"], entry["response"]) == ("ok", "Good morning.\n")


def test_a_streamed_transcription_is_recorded(through: Way) -> None:
    events = [
        b'data: {"type":"transcript.text.delta","delta":"Good "}\n\n',
        b'data: {"type":"transcript.text.delta","delta":"morning."}\n\n',
        b'data: {"type":"transcript.text.done","text":"Good morning."}\n\n',
    ]
    through.ollama.answer = answering(EVENTS, *events, is_chunked=True)
    assert [event.type for event in transcribe(through, stream=True)][-1] == "transcript.text.done"
    assert through.service
    entry = through.service.entry()
    assert (entry["status"], entry["response"]) == ("ok", "Good morning.")


@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\nContent-Dis", 3000 * b"\r\n--x\r\n"])
def test_a_form_that_is_none_goes_on_and_is_kept(through: Way, body: bytes) -> None:
    through.ollama.answer = answering(JSON, b'{"text":"?"}')
    request = http("POST", "/v1/audio/transcriptions", body)
    request = request.replace(b"application/json", b"multipart/form-data; boundary=x")
    assert send(through.url, request).status == 200
    (talk,) = through.ollama.requests
    assert talk.content == body
    assert through.service and through.service.entry()["endpoint"] == "/v1/audio/transcriptions"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits"])
def test_a_picture_is_recorded(through: Way, path: str) -> None:
    through.ollama.answer = answering(JSON, json.dumps({"data": [{"b64_json": PICTURE}]}).encode())
    assert send(through.url, post(path, {"model": "flux", "prompt": "A sky"})).status == 200
    assert through.service
    entry = through.service.entry()
    known = {"status": "ok", "model": "flux", "prompt": "A sky", "images": [PICTURE]}
    assert known.items() <= entry.items()


VECTOR = [0.1, -0.2, 0.3]
PACKED = base64.b64encode(bytes(12)).decode()
EMBEDDINGS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "/api/embed": (
        {"input": ["one", "two"]},
        {"model": "tiny-embed", "embeddings": [VECTOR, VECTOR], "prompt_eval_count": 4},
        "2 vectors of 3 numbers",
    ),
    "/api/embeddings": ({"prompt": "one"}, {"embedding": VECTOR}, "1 vector of 3 numbers"),
    "/v1/embeddings": (
        {"input": "one", "encoding_format": "base64"},
        {"data": [{"embedding": PACKED}], "model": "tiny-embed", "usage": {"prompt_tokens": 4}},
        "1 vector of 3 numbers",
    ),
}


@pytest.fixture
def recording(serve: Serve, ollama: OllamaStandIn) -> Service:
    """A service that records embeddings."""
    return serve(llm_service="ollama", ollama_base_url=ollama.url, log_embeddings=True)


@pytest.mark.parametrize("path", EMBEDDINGS)
def test_embeddings_are_recorded_where_that_is_wanted(
    recording: Service, ollama: OllamaStandIn, path: str
) -> None:
    asked, answer, said = EMBEDDINGS[path]
    body = {"model": "tiny-embed", **asked}
    ollama.answer = answering(JSON, json.dumps(answer).encode())
    got = send(recording.url, post(path, body))
    assert json.loads(got.body) == answer
    entry = recording.entry()
    known = {"endpoint": path, "status": "ok", "response": said, "request": body}
    assert known.items() <= entry.items() and entry["prompt"].startswith("one")
    assert entry["model"] == "tiny-embed" and "-0.2" not in json.dumps(entry)
    ollama.answer = answering(JSON, b'{"error":"no"}')
    send(recording.url, post(path, body))
    assert eventually(lambda: recording.entries[1:])[0]["status"] == "error"


def test_embeddings_are_not_recorded_by_default(through: Way) -> None:
    for path in EMBEDDINGS:
        assert send(through.url, post(path, {"input": "one"})).status == 200
    send(through.url, post("/api/chat", ask("/api/chat")))
    assert through.service and through.service.entry()["endpoint"] == "/api/chat"

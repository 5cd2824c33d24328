"""Bad input: a clear 4xx that names the field, never a 5xx or a traceback, whatever the bytes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Serve, Service

JSON = {"content-type": "application/json"}
ENDPOINTS = pytest.mark.parametrize("endpoint", ["/generate", "/stream"])


def nested(depth: int, open_: str = '{"a":', close: str = "}") -> str:
    """Return JSON that is this deep."""
    return open_ * depth + "1" + close * depth


@pytest.fixture
def service(serve: Serve) -> Service:
    """A stub that answers at once."""
    return serve()


FIELDS = [
    ('{"prompt": ""}', "prompt"),
    ('{"prompt": 5}', "prompt"),
    ('{"prompt": null}', "prompt"),
    ('{"prompt": ["a"]}', "prompt"),
    ('{"prompt": NaN}', "prompt"),
    ('{"prompt": "\\ud800"}', "body"),
    ("{}", "prompt"),
    ('{"prompt": "x", "model": 5}', "model"),
    ('{"prompt": "x", "model": ""}', "model"),
    ('{"prompt": "x", "model": "\\udfff"}', "body"),
    ('{"prompt": "x", "system": []}', "system"),
    ('{"prompt": "x", "options": []}', "options"),
    ('{"prompt": "x", "options": "temperature=1"}', "options"),
    ('{"prompt": "x", "options": {"temperature": NaN}}', "options"),
    ('{"prompt": "x", "options": {"temperature": [-Infinity]}}', "options"),
    ('{"prompt": "x", "options": {"temperature": 1e999}}', "options"),
    ('{"prompt": "x", "options": {"stop": ["\\ud800"]}}', "body"),
    ('{"prompt": "x", "options": {"\\ud800": 1}}', "body"),
    ('{"prompt": "x", "options": {"a": [%s]}}' % ("[]," * 30_000), "body"),
    ('{"prompt": "x", "format": "xml"}', "format"),
    ('{"prompt": "x", "format": {"a": NaN}}', "format"),
    ('{"prompt": "x", "think": "maybe"}', "think"),
    ('{"prompt": "x", "think": 1}', "think"),
    ('{"prompt": "x", "temprature": 1}', "temprature"),
    ('{"prompt": "x", "\\ud800": 1}', "body"),
    ('{"prompt": "x", "stream": false}', "stream"),
    ("[]", "body"),
    ('"prompt"', "body"),
    ("null", "body"),
    ("NaN", "body"),
    ("", "body"),
    ("{", "body"),
    ('{"prompt": "x"', "body"),
    ('{"prompt": "x"} {}', "body"),
    ("prompt=x", "body"),
]


@ENDPOINTS
@pytest.mark.parametrize(("body", "field"), FIELDS)
def test_bad_body_gets_422_that_names_the_field(
    service: Service, endpoint: str, body: str, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = service.client.post(endpoint, content=body, headers=JSON)
    assert response.status_code == 422, response.text
    detail = response.json()["detail"]
    assert detail and all({"type", "loc", "msg"} == error.keys() for error in detail)
    assert all(error["loc"][0] == "body" and error["msg"] for error in detail)
    assert any(field in error["loc"] for error in detail)
    assert service.entries == [] and caplog.records == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "\xff"}',
        b"\xff\xfe{",
        b'{"prompt": ' + b"1" * 5000 + b"}",
        b"[" * 60_000,
        b'{"prompt": "x", "options": ' + b'{"a":' * 10_000,
        ('{"prompt": "x", "options": %s}' % nested(260)).encode(),
        ('{"prompt": "x", "options": %s}' % nested(254)).encode(),
        ('{"prompt": "x", "options": {"a": %s}}' % nested(400, "[", "]")).encode(),
    ],
)
def test_body_that_cannot_be_parsed_at_all_gets_400(
    service: Service, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    response = service.client.post("/generate", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.json() == {"detail": "There was an error parsing the body"}
    assert service.entries == [] and caplog.records == []


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense", "a/b;c"]
)
def test_body_without_a_json_content_type_is_told_which_to_send(
    service: Service, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = service.client.post("/generate", content=b'{"prompt": "x"}', headers=headers)
    assert response.status_code == 422
    assert "Content-Type: application/json" in response.text


@pytest.mark.parametrize("chunked", [False, True])
def test_larger_body_than_allowed_gets_413_that_names_the_setting(
    serve: Serve, chunked: bool
) -> None:
    service = serve(max_prompt_bytes=1000)
    body = json.dumps({"prompt": "x" * 1000}).encode()
    content: Any = iter([body[:500], body[500:]]) if chunked else body
    response = service.client.post("/generate", content=content, headers=JSON)
    assert response.status_code == 413
    assert "1000 bytes" in response.json()["detail"]
    assert "MINIVAULT_MAX_PROMPT_BYTES" in response.json()["detail"]
    exact = json.dumps({"prompt": ""}).encode()
    exact = json.dumps({"prompt": "x" * (1000 - len(exact))}).encode()
    assert service.client.post("/generate", content=exact, headers=JSON).status_code == 200
    assert len(service.entries) == 1


def test_deep_but_bearable_options_reach_the_log(service: Service) -> None:
    body = '{"prompt": "x", "options": %s}' % nested(100)
    response = service.client.post("/generate", content=body, headers=JSON)
    assert response.status_code == 200
    assert service.entry()["options"] == json.loads(nested(100))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["prompt", "model", "system", "options", "format", "think", "other"])
MANY = settings(max_examples=150)


@MANY
@given(body=st.dictionaries(NAMES, JSON_VALUES) | JSON_VALUES)
def test_any_json_is_answered_or_refused_and_what_is_answered_is_logged(
    service: Service, body: Any
) -> None:
    before = len(service.entries)
    response = service.client.post("/generate", content=json.dumps(body), headers=JSON)
    assert response.status_code in (200, 422)
    logged = service.entries[before:]
    assert len(logged) == (response.status_code == 200)
    for entry in logged:
        asked = {key: value for key, value in body.items() if value is not None}
        asked["model"] = "stub"  # the one that answered
        assert {key: entry[key] for key in asked} == asked


@MANY
@given(body=st.binary())
def test_any_bytes_are_refused(service: Service, body: bytes) -> None:
    assert service.client.post("/stream", content=body, headers=JSON).status_code in (400, 422)


def test_many_errors_are_not_all_named(serve: Serve) -> None:
    client = serve().client
    body = {"prompt": "x", **{f"unknown{n}": n for n in range(6_000)}}
    answered = client.post("/generate", json=body)
    assert answered.status_code == 422 and len(answered.content) < 5_000
    assert "5990 more problems" in answered.text
    body = {"prompt": "x", **{f"unknown{n}": n for n in range(40_000)}}
    answered = client.post("/generate", json=body)
    assert answered.status_code == 422 and "too many values" in answered.text

"""The smoke check: does a running MiniVault answer, and does its stream stream?

    python test_service.py [BASE_URL] [--wait SECONDS]

Exits 0, or 1 with the reason in one line. Where `MINIVAULT_API_KEY` is set, in the
environment or in `.env`, the key goes along.
Proxies of the environment are left alone: what is checked is the service itself.
This is a command for users, not a test for pytest; those are in `tests/`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import httpx
from dotenv import dotenv_values

ENV_FILE = Path(__file__).parent / ".env"
PROMPT = {"prompt": "Say hello in one short sentence."}
CHAT = {"messages": [{"role": "user", "content": PROMPT["prompt"]}], "stream": False}
ANSWER_SECONDS = 900  # a first answer can wait for a model to load
LATE_SECONDS = 0.5
LATE_PART = 0.5
"""A first piece is late where it took so long, and this part of the time of a whole answer."""
AT_ONCE_PART = 0.1
"""The rest came at once where it took no more than this part of the wait for the first piece."""


class CheckFailed(Exception):
    """The service is not as it should be; the message is the reason."""


def said(response: httpx.Response) -> str:
    """Return what an error answer said."""
    try:
        body = response.json()
        words = body["detail"] if "detail" in body else body["error"]
    except (ValueError, KeyError, TypeError):
        words = response.text[:200] or "nothing"
    return f"{response.request.url} answered {response.status_code}: {words}"


def wait_until_ready(client: httpx.Client, seconds: float) -> None:
    """Return when `/ready` says 200; raise `CheckFailed` where it does not within the time."""
    print(f"waiting for {client.base_url} (up to {seconds:g} s)", flush=True)
    end = time.monotonic() + seconds
    while True:
        try:
            response = client.get("/ready", timeout=10)
            if response.status_code == httpx.codes.OK:
                return
            problem = said(response)
        except httpx.HTTPError as exc:
            problem = f"nothing answers at {client.base_url} ({exc})"
        if time.monotonic() > end:
            raise CheckFailed(problem)
        time.sleep(min(0.5, seconds))


def text_of(response: httpx.Response, *keys: str) -> str:
    """Return the text of a whole answer, which stands under these keys of its JSON.

    Raises:
        CheckFailed: it is an error, something else, or an answer without a text.
    """
    if response.status_code != httpx.codes.OK:
        raise CheckFailed(said(response))
    path = response.request.url.path
    try:
        found = response.json()
        for key in keys:
            found = found[key]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        raise CheckFailed(f"{path} answered 200 without a text: {response.text[:200]}")
    if not found:
        raise CheckFailed(f"{path} gave an empty answer: the model said nothing")
    return found


def check_generate(client: httpx.Client) -> tuple[str, float]:
    """Ask for a whole answer; return what was found, and the seconds that it took."""
    begun = time.monotonic()
    text = text_of(client.post("/generate", json=PROMPT), "response")
    seconds = time.monotonic() - begun
    return f"{len(text)} characters in {seconds:.2f} s", seconds


def check_stream(client: httpx.Client, whole_seconds: float) -> str:
    """Ask for a stream, show it as it comes and return what was found.

    A fast model's tokens may come many in one read, so one piece is no fault by itself. It is one
    where it also came as late as an answer that is whole, which takes `whole_seconds`.
    """
    begun = time.monotonic()
    arrivals = []
    print("/stream:   ", end="", flush=True)
    with client.stream("POST", "/stream", json=PROMPT) as response:
        if response.status_code != httpx.codes.OK:
            response.read()
            raise CheckFailed(said(response))
        for piece in response.iter_text():
            arrivals.append(time.monotonic() - begun)
            print(piece, end="", flush=True)
    print()
    if not arrivals:
        raise CheckFailed("/stream gave an empty answer: the model said nothing")
    first, last = arrivals[0], arrivals[-1]
    is_late = first > max(LATE_SECONDS, LATE_PART * whole_seconds)
    if is_late and last - first < AT_ONCE_PART * first:
        raise CheckFailed("/stream arrived in one piece; does a proxy in between buffer it?")
    return f"{len(arrivals)} pieces, the first after {first:.2f} s, all in {last:.2f} s"


def check_gateway(client: httpx.Client) -> str | None:
    """Ask through Ollama's own interface; return what was found, None where it is not served.

    It wants a model by name, and the default one's name stands at the end of a stream.
    """
    if client.get("/api/version").status_code != httpx.codes.OK:
        return None
    shortest = {**PROMPT, "options": {"num_predict": 1}}
    response = client.post("/stream", json=shortest, headers={"Accept": "application/x-ndjson"})
    if response.status_code != httpx.codes.OK:
        raise CheckFailed(said(response))
    model = json.loads(response.text.splitlines()[-1]).get("model")
    answer = client.post("/api/chat", json={**CHAT, "model": model})
    return f"{len(text_of(answer, 'message', 'content'))} characters from {model}"


def check(client: httpx.Client, wait: float) -> None:
    """Run all checks and print what each found; raise `CheckFailed` at the first that fails."""
    wait_until_ready(client, wait)
    print("/ready:     yes", flush=True)
    found, seconds = check_generate(client)
    print("/generate: ", found, flush=True)
    print("/stream:   ", check_stream(client, seconds), flush=True)
    if found_there := check_gateway(client):
        print("/api/chat: ", found_there, flush=True)


def key_header() -> dict[str, str]:
    """Return the header that carries the key, if one is set."""
    settings = {**dotenv_values(ENV_FILE), **{k: v for k, v in os.environ.items() if v}}
    key = (settings.get("MINIVAULT_API_KEY") or "").strip()
    if not key.isascii():
        raise CheckFailed("MINIVAULT_API_KEY is not ASCII: no header can carry it")
    return {"Authorization": f"Bearer {key}"} if key else {}


def main() -> int:
    """Run the checks and return the exit status."""
    parser = argparse.ArgumentParser(description="Check a running MiniVault.")
    parser.add_argument("base_url", nargs="?", default="http://localhost:8000")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for the service")
    arguments = parser.parse_args()
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=10)
    try:
        with httpx.Client(
            base_url=arguments.base_url, headers=key_header(), timeout=timeout, trust_env=False
        ) as client:
            check(client, arguments.wait)
    except (CheckFailed, httpx.HTTPError, httpx.InvalidURL) as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        print(f"FAILED: {reason}", file=sys.stderr)
        return 1
    print("all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main())

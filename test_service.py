"""The smoke check: does a running MiniVault answer, and does its stream stream?

    python test_service.py [BASE_URL] [--wait SECONDS]

Exits 0, or 1 with the reason in one line. Where `MINIVAULT_API_KEY` is set, the key goes along.
This is a command for users, not a test for pytest; those are in `tests/`.
"""

import argparse
import os
import sys
import time

import httpx

PROMPT = {"prompt": "Say hello in one short sentence."}
ANSWER_SECONDS = 900  # a first answer can wait for a model to load


class CheckFailed(Exception):
    """The service is not as it should be; the message is the reason."""


def said(response: httpx.Response) -> str:
    """Return what an error answer said."""
    try:
        words = response.json()["detail"]
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


def check_generate(client: httpx.Client) -> str:
    """Ask for a whole answer and return what was found."""
    begun = time.monotonic()
    response = client.post("/generate", json=PROMPT)
    if response.status_code != httpx.codes.OK:
        raise CheckFailed(said(response))
    try:
        characters = len(response.json()["response"])
    except (ValueError, KeyError, TypeError):
        characters = 0
    if not characters:
        raise CheckFailed(f"/generate answered 200 without a text: {response.text[:200]}")
    return f"{characters} characters in {time.monotonic() - begun:.2f} s"


def check_stream(client: httpx.Client) -> str:
    """Ask for a stream, show it as it comes and return what was found."""
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
    if len(arrivals) < 2:
        raise CheckFailed("/stream arrived in one piece; does a proxy in between buffer it?")
    return (
        f"{len(arrivals)} pieces, the first after {arrivals[0]:.2f} s, all in {arrivals[-1]:.2f} s"
    )


def main() -> int:
    """Run the checks and return the exit status."""
    parser = argparse.ArgumentParser(description="Check a running MiniVault.")
    parser.add_argument("base_url", nargs="?", default="http://localhost:8000")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for the service")
    arguments = parser.parse_args()
    key = os.environ.get("MINIVAULT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=10)
    try:
        with httpx.Client(base_url=arguments.base_url, headers=headers, timeout=timeout) as client:
            wait_until_ready(client, arguments.wait)
            print("/ready:     yes", flush=True)
            print("/generate: ", check_generate(client), flush=True)
            print("/stream:   ", check_stream(client), flush=True)
    except (CheckFailed, httpx.HTTPError, httpx.InvalidURL) as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        print(f"FAILED: {reason}", file=sys.stderr)
        return 1
    print("all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main())

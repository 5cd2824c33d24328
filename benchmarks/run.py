"""MiniVault measured beside nginx, the obvious way and LiteLLM, on this machine's loopback.

    python benchmarks/run.py              all cases, about ten minutes
    python benchmarks/run.py --quick      every figure, roughly, in little more than a minute
    python benchmarks/run.py --litellm    with the LiteLLM proxy, which it installs into .cache
    python benchmarks/run.py --buffering  what holding tokens back would save and cost

It starts all that it needs, shows what it does, leaves its report in `benchmarks/results/`, and
ends what it started, however it ends. It needs Linux, the project's requirements and, to compare
with nginx, Debian's package `nginx-light`. A missed aim is a line of the report, not a failure.
"""

import argparse
import resource
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def raise_open_files() -> None:
    """Allow this process and its children all the files that the system does: streams are files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def stop(signum: int, frame: FrameType | None) -> None:
    """End by way of everything that has to be cleaned up, which no second signal interrupts."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


class Progress:
    """Lines on the terminal, each with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"{time.monotonic() - self._started:5.0f} s  {line}", flush=True)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute's look")
    parser.add_argument("--litellm", action="store_true", help="with the LiteLLM proxy")
    parser.add_argument("--buffering", action="store_true", help="only the windows of buffering")
    asked = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("the benchmark reads CPU time and memory the way Linux tells them")
    try:
        import buffering
        import report
        from cases import Benchmark
        from servers import NotStartedError, nginx_program
    except ModuleNotFoundError as exc:
        sys.exit(f"{exc.name} is missing: pip install -r requirements.txt")
    raise_open_files()
    for each in STOP_SIGNALS:
        signal.signal(each, stop)
    say = Progress()
    command = shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])
    facts, bystanders = report.machine(litellm=asked.litellm), report.Bystanders()
    say("; ".join(f"{name}: {value}" for name, value in facts.items()))
    if not nginx_program():
        say("nginx is not here and is left out: apt-get install nginx-light")
    with tempfile.TemporaryDirectory(prefix="minivault-benchmark-") as name:
        folder = Path(name)
        try:
            if asked.buffering:
                measured = buffering.run(folder, say, quick=asked.quick)
                facts |= bystanders.facts()
                text = buffering.write(measured, facts, command)
            else:
                benchmark = Benchmark(folder, quick=asked.quick, litellm=asked.litellm, say=say)
                benchmark.run()
                facts |= bystanders.facts()
                text = report.write(benchmark.results, facts, command)
        except NotStartedError as exc:
            sys.exit(f"a server did not start: {exc}")
        except KeyboardInterrupt:
            sys.exit("stopped; all that was started is ended")
    print(f"\n{text}\nwritten to {report.FOLDER}/")


if __name__ == "__main__":
    main()

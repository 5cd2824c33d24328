"""MiniVault measured beside nginx, the obvious way and LiteLLM, on this machine's loopback.

    python benchmarks/run.py                     all cases
    python benchmarks/run.py --quick             every figure, roughly, in two minutes
    python benchmarks/run.py --litellm           with the LiteLLM proxy, installed into .cache
    python benchmarks/run.py --against COMMIT    with the MiniVault of that commit

It starts all that it needs, shows what it does, leaves its report in `benchmarks/results/`, prints
the figures that the README quotes, and ends what it started, however it ends.
"""

import argparse
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop(signum: int, frame: FrameType | None) -> None:
    """End by way of everything that has to be cleaned up, which no second signal interrupts."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit("stopped; all that was started is ended")


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short look")
    parser.add_argument("--litellm", action="store_true", help="with the LiteLLM proxy")
    parser.add_argument("--against", default="", metavar="COMMIT", help="an earlier MiniVault")
    parser.add_argument("--only", default="", help="the cases with this in their names")
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="a folder"
    )
    return parser.parse_args()


def main() -> None:
    """Run the cases and write the report."""
    asked = arguments()
    if sys.platform != "linux":
        sys.exit("the benchmark reads CPU time and memory the way Linux tells them")
    try:
        import report
        from linux import LOAD_CORES
        from cases import CASES, Benchmark
        from servers import OLLAMA, NotStartedError, Starter, install_litellm, nginx_program
    except ModuleNotFoundError as exc:
        sys.exit(f"{exc.name} is missing: pip install -r requirements.txt")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # streams are files
    os.sched_setaffinity(0, LOAD_CORES)
    for each in STOP_SIGNALS:
        signal.signal(each, stop)
    if not nginx_program():
        print("nginx is not here and is left out: apt-get install nginx-light")
    if asked.litellm:
        install_litellm()
    machine, started = report.Machine(), time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {line}", flush=True)

    with tempfile.TemporaryDirectory(prefix="minivault-benchmark-") as folder:
        starter = Starter(Path(folder), asked.against)
        benchmark = Benchmark(starter, say, quick=asked.quick, litellm=asked.litellm)
        try:
            with starter.running(OLLAMA):
                for case in CASES:
                    if asked.only in case.name:
                        benchmark.run(case)
        except NotStartedError as exc:
            sys.exit(f"a server did not start: {exc}")
    command = shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])
    report.write(benchmark.results, machine.facts(), command, asked.results)
    try:
        import plot

        plot.draw(benchmark.results, asked.results / "results.svg")
    except ModuleNotFoundError as exc:
        print(f"no plot: {exc.name} is missing: pip install -r benchmarks/requirements.txt")
    print(f"\n{report.headlines(benchmark.results)}\n\nwritten to {asked.results}/")


if __name__ == "__main__":
    main()

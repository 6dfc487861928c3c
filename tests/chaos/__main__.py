"""`python -m tests.chaos`: see tests/chaos/chaos.py."""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.chaos.chaos import Chaos
from tests.chaos.load import Wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of the first run; the next ones count on")
    parser.add_argument("--seconds", type=float, default=60, help="of storm, in each run")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--server", default="cython", help="engine")
    parser.add_argument("--client", default="cython", help="engine")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    for number in range(seed, seed + options.runs):
        with tempfile.TemporaryDirectory() as folder:
            chaos, begun = Chaos(number, Path(folder), (options.server, options.client)), time.monotonic()
            print(f"seed {number}, {options.server} server, {options.client} clients", flush=True)
            try:
                uvloop.run(chaos.run(options.seconds))
            except* Wrong as errors:
                print(chaos.report())
                after = f"seed {number} after {time.monotonic() - begun:.0f} s"
                sys.exit("\n".join(f"{after}: {error}" for error in _leaves(errors)))
            print(chaos.report(), flush=True)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


if __name__ == "__main__":
    main()

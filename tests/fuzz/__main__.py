"""`python -m tests.fuzz`: feeds targets with mutated inputs. `make fuzz` does so under the sanitizers.

Every target runs in a process of its own. Findings are kept in tests/fuzz/found, one file each, which
tests/fuzz/test_fuzz.py feeds again.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.driver import STUCK_S, Current, failure, save, work
from tests.fuzz.targets import TARGETS

BUILD = Path(__file__).resolve().parents[2] / "build" / "fuzz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=TARGETS, help="all, unless some are named")
    parser.add_argument("--seconds", type=float, default=30, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep inputs that reach new places in tests/corpus/fuzz")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="feed these to the target, and tell")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    if options.work:
        target, current = TARGETS[names[0]](), BUILD / names[0]
        sys.exit(work(target, options.seconds, options.seed, current, saving=options.save, again=options.again))
    if options.replay:
        sys.exit(replay(names, options.replay))
    failed = [name for name in names if not supervise(name, options)]
    if failed:
        sys.exit(f"findings: {', '.join(failed)}")


def replay(names: list[str], paths: list[Path]) -> int:
    """Of each file; a crash shows itself."""
    target = TARGETS[names[0]]()
    target.open()
    bad = 0
    for path in paths:
        why = failure(target, path.read_bytes())
        print(f"{path}: {why or 'passes'}")
        bad += why is not None
    target.close()
    return int(bad > 0)


def supervise(name: str, options: argparse.Namespace) -> bool:
    """Run one target in a child, and again as long as it crashes and time is left. Whether all is well."""
    well, end, seed = True, time.monotonic() + options.seconds, options.seed
    while (left := end - time.monotonic()) > 0:
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz", "--work", "--target", name]
        command += ["--seconds", f"{left:.1f}", "--seed", str(seed), *(["--save"] if options.save else [])]
        command += [] if well else ["--again"]  # the crash has become a finding, which would only crash again
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        try:
            _, errors = child.communicate(timeout=left + STUCK_S)
        except subprocess.TimeoutExpired:
            child.kill()
            _, errors = child.communicate()
            errors += "\nit hung"
        if child.returncode in (0, 1):
            print(errors, end="")
            return well and child.returncode == 0
        well = False
        save(name, Current.read(BUILD / name), f"exit code {child.returncode}\n{errors[-8000:]}")
        seed += 1_000_003  # not the same inputs again
    return well


if __name__ == "__main__":
    main()

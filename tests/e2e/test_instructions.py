"""Instructions of the kernels per item stay within their bounds: the guard against slower kernels, beside
test_system_calls.py, which counts what a message costs the kernel of the machine.
"""

import sys
from pathlib import Path

import pytest

from tests.support import programs

instructions = pytest.importorskip("bench.instructions", reason="an archive of the sources has no bench/")
ROOT = Path(__file__).parents[2]
DUMP = """\
events: Ir
fn=__pyx_f_10fasttunnel_5_core_ws_parse
0 40
calls=2 0
0 1000
0 2
fn=memcpy
0 7
"""

pytestmark = pytest.mark.cython_only("it counts what the compiled engine is made of")


async def test_no_kernel_needs_more_instructions_than_its_bound() -> None:
    programs.need("valgrind")
    command = ["env", "-C", str(ROOT), sys.executable, "-m", "bench", "instructions"]
    done = await programs.run(*command, timeout_s=110)  # the first time it compiles the driver
    out = done.out.decode()
    if "built for debugging" in done.err:
        pytest.skip("the extension modules are built for debugging")
    assert done.code == 0, out + done.err
    if "skipped:" in out:
        pytest.skip(out[out.index("skipped:") :].strip())
    assert "look up one of 100,000 requests" in out


def test_what_a_function_calls_is_not_its_own() -> None:
    assert instructions.read_dump(DUMP) == {"__pyx_f_10fasttunnel_5_core_ws_parse": 42, "memcpy": 7}


def test_more_than_the_slack_is_told() -> None:
    bounds = {"a frame": 100.0}
    assert not instructions.compare({"a frame": {"ws_parse": 70.0, "ws_mask": 40.0}}, bounds)[1]
    lines, above = instructions.compare({"a frame": {"ws_parse": 70.0, "ws_mask": 50.0}}, bounds)
    assert above
    assert "MORE" in lines[0]
    assert "ws_parse" in lines[1]

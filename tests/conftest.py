"""Fixtures of tests that open sockets: each runs on its own uvloop and takes down what it has started."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import hypothesis
import pytest
import uvloop

pytest.register_assert_rewrite("tests.support")

from tests.support import certificates  # noqa: E402
from tests.support import tunnel as support  # noqa: E402
from tests.support.leaks import exchanges  # noqa: E402
from tests.support.tunnel import eventually  # noqa: E402

# The clients that tests use, other programs included, go straight to this machine.
for _name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

# What commands keep for their user belongs to the user, not to tests.
_home = tempfile.TemporaryDirectory(prefix="fasttunnel-home-")
for _name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
    os.environ[_name] = os.path.join(_home.name, _name)

# A shell has the programs it starts in the background ignore Ctrl-C, which those that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tls", action="store_true", help="tunnels between the two ends use TLS, where a test has no view on it"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the process that sees the reports of all
        config.pluginmanager.register(_Failures(config))
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        # Everything takes several times as long.
        hypothesis.settings.register_profile(
            "sanitized", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
        )
        hypothesis.settings.load_profile("sanitized")
    if config.getoption("--tls"):
        pair = certificates.here()
        support.of_tunnels["server"] = {"cert": pair.cert, "key": pair.key, "tls": ["tunnel"]}
        support.of_tunnels["client"] = {"ca": certificates.authority().ca}


class _Failures:
    """Tells a failure at once as well: a run that is cut off has no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            what = crash.message if crash is not None else str(report.longrepr)
            terminal.write_line(f"\n{report.nodeid}: {report.when} failed after {report.duration:.1f} s: {what[:300]}")


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the data plane is written for."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Whatever is entered here is left at the end of the test, last in first out; no request may be left over."""
    before = exchanges()
    stack = AsyncExitStack()
    yield stack
    async with asyncio.timeout(30):
        await stack.aclose()
    await eventually(lambda: exchanges() == before, lambda: f"{before} exchanges before the test, {exchanges()} after")

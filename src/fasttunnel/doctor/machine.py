"""What both ends need of the machine and of the installation."""

from __future__ import annotations

import resource
from collections.abc import Mapping

from fasttunnel.api import choose_engine
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.doctor.findings import Findings
from fasttunnel.installation import versions

FEW_FILES = 4096  # a connection takes one; what systems give by default is often 1024
OF_OUR_OWN = 64  # beside those of connections
PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


def check_machine(findings: Findings, settings: ServerConfig | ClientConfig | None, engine: str | None) -> None:
    with findings.about("engine"):
        choice = choose_engine(engine)
        found = versions(choice)
        parts = ", ".join(f"{name} {text}" for name, text in found.items() if name != "fasttunnel")
        findings.ok("version", f"fasttunnel {found['fasttunnel']} with {parts}")
        missing = [name for name, text in found.items() if text == "missing"]
        if missing:
            advice = "pip install 'fasttunnel[reference]'"
            findings.problem("engine", f"{choice.name} needs {', '.join(missing)}, not installed", advice)
        elif choice.missing:
            findings.note("engine", f"asyncio, which is slower: {choice.reason}", "see docs/install.md")
        else:
            findings.ok("engine", f"{choice.name}: {choice.reason}")
    with findings.about("open files"):
        _check_files(findings, settings)


def _check_files(findings: Findings, settings: ServerConfig | ClientConfig | None) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return findings.ok("open files", "no limit")
    bound = settings.max_connections if isinstance(settings, ServerConfig) else 0
    advice = "LimitNOFILE=65536 in a unit of systemd, --ulimit nofile=65536 of a container, or ulimit -n in a shell"
    if bound and soft < bound + OF_OUR_OWN:
        findings.problem("open files", f"{soft} are allowed, too few for max_connections = {bound}", advice)
    elif soft < FEW_FILES:
        findings.note("open files", f"{soft} are allowed; each connection takes one", advice)
    else:
        findings.ok("open files", f"{soft} are allowed")


def check_proxies(findings: Findings, environment: Mapping[str, str]) -> None:
    named = [name for name in PROXIES if environment.get(name)]
    if named:
        findings.note("proxy", f"{named[0]} is set, and not used: the client dials the server directly")

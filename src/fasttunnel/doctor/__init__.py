"""What is wrong with an end of a tunnel, and what to do about it: the checks of `fasttunnel doctor`."""

from fasttunnel.doctor.client import check_client
from fasttunnel.doctor.findings import Finding, Findings
from fasttunnel.doctor.machine import check_machine
from fasttunnel.doctor.server import check_server

__all__ = ["Finding", "Findings", "check_client", "check_machine", "check_server"]

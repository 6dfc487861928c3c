"""The services of systemd are units that systemd takes, and as closed as they say."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fasttunnel import limits

UNITS = sorted((Path(__file__).resolve().parents[2] / "packaging").glob("*.service"))


def test_there_are_some() -> None:
    assert len(UNITS) == 2


def test_a_client_with_a_wrong_token_gets_nobody_barred() -> None:
    (client,) = [unit for unit in UNITS if "client" in unit.name]
    (pause,) = [line.partition("=")[2] for line in client.read_text().splitlines() if line.startswith("RestartSec=")]
    assert limits.FAILED_LOGINS_S / float(pause) < limits.MAX_FAILED_LOGINS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if unit.name in line and "is not executable" not in line]
    assert said == [], "but that the program is not there"
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at files")
    assert done.returncode == 0, done.stdout[-500:] + done.stderr

"""Chromium without a window, for tests that drive it."""

from tests.support import programs

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def chromium(*options: str) -> list[str]:
    """Its command. The test is skipped where there is none."""
    return [programs.need("chromium", "chromium-browser", "google-chrome"), *FLAGS, *options]

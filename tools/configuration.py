"""Writes docs/configuration.md from the options' own descriptions."""

from pathlib import Path

from fasttunnel.control.schema import page

Path(__file__).parents[1].joinpath("docs", "configuration.md").write_text(page())

"""Compile bench/_native.pyx, when it is not up to date, beside it.

    python bench/build.py

Needs what fasttunnel itself is built with: Cython, a C compiler, libnghttp2 and its headers.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Distribution, Extension

ROOT = Path(__file__).resolve().parents[1]


def build() -> None:
    os.chdir(ROOT)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libnghttp2"], capture_output=True, text=True, check=True
    ).stdout
    extension = Extension(
        "bench._native",
        ["bench/_native.pyx"],
        depends=[str(part) for part in sorted(Path("bench/native").glob("*.pxi"))],
        include_dirs=["src"],
        extra_compile_args=["-O3"],
        extra_link_args=shlex.split(flags),
    )
    modules = cythonize(
        [extension],
        include_path=["src"],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
        },
    )
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.inplace = True
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    build()

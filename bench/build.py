"""Compile the extension modules of the suite, when they are not up to date, beside their sources.

    python bench/build.py

Needs what fasttunnel itself is built with: Cython, a C compiler, libnghttp2, OpenSSL and their headers.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _libraries() -> list[str]:
    try:
        done = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "libnghttp2", "libssl"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        sys.exit("the suite needs pkg-config, libnghttp2-dev and libssl-dev (as packages of Debian are called)")
    return shlex.split(done.stdout)


def build() -> None:
    try:
        from Cython.Build import cythonize
        from setuptools import Distribution, Extension
    except ImportError as error:
        sys.exit(f"the suite needs {error.name}: pip install 'fasttunnel[bench]'")
    os.chdir(ROOT)
    options = {"include_dirs": ["src", "src/fasttunnel/engine"], "extra_compile_args": ["-O3", "-Wno-sign-compare"]}
    load = Extension(
        "bench._native",
        ["bench/_native.pyx"],
        depends=[str(part) for part in sorted(Path("bench/native").glob("*.pxi"))],
        extra_link_args=_libraries(),
        **options,
    )
    kernels = Extension("bench._kernels", ["bench/_kernels.pyx"], **options)
    echo = Extension("bench._tls_echo", ["bench/_tls_echo.pyx"], **options)
    modules = cythonize(
        [load, kernels, echo],
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

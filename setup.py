"""Extension modules of fasttunnel. Metadata is in pyproject.toml.

Switches, as environment variables set to 1 (a change of switches rebuilds everything):

FASTTUNNEL_DEBUG     no optimisation, bounds and None checks, life-cycle counters (FT_DEBUG)
FASTTUNNEL_SANITIZE  AddressSanitizer and UndefinedBehaviorSanitizer
FASTTUNNEL_COVERAGE  every basic block tells tests/fuzz/coverage.c, which has to be preloaded (make fuzz)
FASTTUNNEL_ANNOTATE  annotated HTML of every .pyx under build/
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("src/fasttunnel")
ENGINE = PACKAGE / "engine"
# Library, its least version, and the modules that link it.
LIBRARIES = {"libnghttp2": ("1.52", ("_http2",)), "libssl": ("3.0", ("_tls",)), "libcrypto": ("3.0", ("_tls",))}
HELP = """fasttunnel needs {library} {minimum} or newer and its headers: {problem}.
Install what it needs with
  Debian, Ubuntu   apt-get install libnghttp2-dev libssl-dev pkg-config
  Fedora           dnf install libnghttp2-devel openssl-devel pkgconf-pkg-config
  Alpine           apk add nghttp2-dev openssl-dev pkgconf
  macOS            brew install libnghttp2 openssl pkg-config"""

SWITCHES = ("DEBUG", "SANITIZE", "COVERAGE", "ANNOTATE")
DEBUG, SANITIZE, COVERAGE, ANNOTATE = (os.environ.get(f"FASTTUNNEL_{name}") == "1" for name in SWITCHES)


def pkg_config(library: str, *arguments: str) -> list[str]:
    """Flags of a library, or a clear end of the build."""
    minimum, _ = LIBRARIES[library]
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), *arguments, f"{library} >= {minimum}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        sys.exit(HELP.format(library=library, minimum=minimum, problem="pkg-config is not installed"))
    except subprocess.CalledProcessError as error:
        problem = " ".join(error.stderr.split()) or "not found"
        sys.exit(HELP.format(library=library, minimum=minimum, problem=problem))
    return shlex.split(done.stdout)


def compiler_flags() -> list[str]:
    flags = ["-Wall", "-Wno-unused-function", "-O0" if DEBUG else "-O3"]
    if DEBUG or SANITIZE:
        flags += ["-g", "-fno-omit-frame-pointer"]
    if SANITIZE:
        flags += ["-fsanitize=address,undefined"]
    if COVERAGE:
        flags += ["-fsanitize-coverage=trace-pc"]
    return flags


def extensions() -> list[Extension]:
    """The kernels, and one module per engine/_*.pyx."""
    sources = [PACKAGE / "_core.pyx", *sorted(ENGINE.glob("_*.pyx"))]
    found = []
    for source in sources:
        if not source.exists():
            continue
        extension = Extension(
            ".".join(source.relative_to("src").with_suffix("").parts),
            [str(source)],
            define_macros=[("FT_DEBUG", "1")] if DEBUG else [],
            extra_compile_args=compiler_flags(),
            extra_link_args=["-fsanitize=address,undefined"] if SANITIZE else [],
        )
        if source.parent == ENGINE:
            # Modules that cimport another include the headers of its library; only that one itself links it.
            extension.include_dirs.append(str(ENGINE))
            extension.depends += [str(header) for header in sorted(ENGINE.glob("*.h"))]
            for library, (_, users) in LIBRARIES.items():
                extension.extra_compile_args += pkg_config(library, "--cflags")
                if source.stem in users:
                    extension.extra_link_args += pkg_config(library, "--libs")
        else:
            extension.depends += [str(part) for part in sorted((PACKAGE / "core").glob("*.pxi"))]
        found.append(extension)
    return found


def main() -> None:
    os.chdir(ROOT)
    if {"sdist", "egg_info", "dist_info"} & set(sys.argv):  # nothing is compiled for these
        setup()
        return

    from Cython.Build import cythonize

    # Objects of a build with other switches must not be mixed with ours, also when this build fails half-way.
    switches = f"debug={DEBUG} sanitize={SANITIZE} coverage={COVERAGE} annotate={ANNOTATE}"
    stamp = Path("build/switches")
    force = not stamp.exists() or stamp.read_text() != switches
    if force:
        stamp.unlink(missing_ok=True)
    modules = cythonize(
        extensions(),
        build_dir="build/cython",  # C files and HTML stay out of the source tree
        nthreads=2,
        force=force or None,
        annotate=ANNOTATE,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "nonecheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "binding": True,
        },
    )
    setup(ext_modules=modules, options={"build_ext": {"force": force, "parallel": os.cpu_count() or 1}})
    if "build_ext" in sys.argv or "editable_wheel" in sys.argv:
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(switches)


if __name__ == "__main__":  # cythonize's workers may import this file
    main()

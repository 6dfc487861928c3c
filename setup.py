"""Extension modules of fasttunnel. Metadata is in pyproject.toml.

Switches, as environment variables set to 1 (a change of switches rebuilds everything):

FASTTUNNEL_DEBUG     no optimisation, bounds and None checks, life-cycle counters (FT_DEBUG)
FASTTUNNEL_SANITIZE  AddressSanitizer and UndefinedBehaviorSanitizer
FASTTUNNEL_COVERAGE  every basic block tells tests/fuzz/coverage.c, which has to be preloaded (make fuzz)
FASTTUNNEL_ANNOTATE  annotated HTML of every .pyx under build/
FASTTUNNEL_STATIC    libnghttp2 and OpenSSL become part of the modules, with their symbols hidden (wheels)

FASTTUNNEL_ENGINE=cython insists on the compiled engine, FASTTUNNEL_ENGINE=asyncio leaves it away. Without either it is
compiled where it can be: a machine without a compiler, or without a library, gets the asyncio engine and what that
needs. So what fasttunnel depends on is known only here; in pyproject.toml it is dynamic.
"""

import functools
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("src/fasttunnel")
ENGINE = PACKAGE / "engine"
# Library, its least version, and the modules that link it.
LIBRARIES = {"libnghttp2": ("1.52", ("_http2",)), "libssl": ("3.0", ("_tls",)), "libcrypto": ("3.0", ("_tls",))}
INSTALL = """
Install what it needs with
  Debian, Ubuntu   apt-get install gcc libnghttp2-dev libssl-dev pkg-config python3-dev
  Fedora           dnf install gcc libnghttp2-devel openssl-devel pkgconf-pkg-config python3-devel
  Alpine           apk add gcc musl-dev nghttp2-dev openssl-dev pkgconf python3-dev
  macOS            xcode-select --install; brew install libnghttp2 openssl pkg-config"""
PROBE = """#include <Python.h>
#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
int probe(void) { return nghttp2_version(0) != 0 && SSL_CTX_new(TLS_method()) != 0 && Py_IsInitialized(); }
"""
NOT_COMPILED = PACKAGE / "not-compiled.txt"  # why, for `fasttunnel version`

SWITCHES = ("DEBUG", "SANITIZE", "COVERAGE", "ANNOTATE", "STATIC")
DEBUG, SANITIZE, COVERAGE, ANNOTATE, STATIC = (os.environ.get(f"FASTTUNNEL_{name}") == "1" for name in SWITCHES)
WANTED = os.environ.get("FASTTUNNEL_ENGINE", "")


class Missing(Exception):
    """What the compiled engine needs and this machine does not have."""


@functools.cache
def pkg_config(library: str, *arguments: str) -> list[str]:
    """Flags of a library. Raises Missing."""
    minimum, _ = LIBRARIES[library]
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), *arguments, f"{library} >= {minimum}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError:
        raise Missing(f"{library} {minimum} or newer cannot be looked for: there is no {command[0]}") from None
    except subprocess.CalledProcessError as error:
        problem = " ".join(error.stderr.split()) or "not found"
        raise Missing(f"it needs {library} {minimum} or newer and its headers: {problem}") from None
    return shlex.split(done.stdout)


def libraries(library: str) -> list[str]:
    return pkg_config(library, "--libs", *(["--static"] if STATIC else []))


def missing() -> str | None:
    """What keeps the engine from being compiled here. A small program is, for a header says more than a version."""
    try:
        flags = [flag for library in LIBRARIES for flag in pkg_config(library, "--cflags")]
        links = [flag for library in LIBRARIES for flag in libraries(library)]
        import Cython  # noqa: F401
    except Missing as error:
        return str(error)
    except ImportError:
        return "Cython is not installed"
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(shlex.split(compiler)[0]) is None:
        return f"there is no C compiler: {compiler} is not found"
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "probe.c")
        source.write_text(PROBE)
        command = Distribution({"ext_modules": [Extension("probe", [str(source)])]}).get_command_obj("build_ext")
        command.extensions = [
            Extension("probe", [str(source)], extra_compile_args=[*flags, "-w"], extra_link_args=links)
        ]
        command.build_lib = command.build_temp = place
        try:
            with quiet():
                command.ensure_finalized()
                command.run()
        except (Exception, SystemExit) as error:  # each version of setuptools has its own
            return f"{compiler} cannot compile with the headers of Python, libnghttp2 and OpenSSL: {error}"
    return None


class quiet:
    """Without what a compiler says of a probe."""

    def __enter__(self) -> None:
        self.kept = [os.dup(1), os.dup(2)]
        with open(os.devnull, "w") as nowhere:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)

    def __exit__(self, *_: object) -> None:
        for number, kept in zip((1, 2), self.kept, strict=True):
            os.dup2(kept, number)
            os.close(kept)


def why_not() -> str | None:
    """Why there will be no compiled engine. Ends the build when there has to be one."""
    if WANTED == "asyncio":
        return "FASTTUNNEL_ENGINE=asyncio was set"
    if WANTED not in ("", "cython"):
        sys.exit(f"FASTTUNNEL_ENGINE={WANTED}: there is no such engine; it is cython or asyncio")
    problem = missing()
    if problem and (WANTED or "build_ext" in sys.argv):
        sys.exit(f"fasttunnel's compiled engine cannot be built: {problem}{INSTALL}")
    return problem


def dependencies(reason: str | None) -> list[str]:
    """What fasttunnel needs; without the compiled engine also what the asyncio engine needs."""
    metadata = tomllib.loads(Path("pyproject.toml").read_text())
    extra = metadata["project"]["optional-dependencies"]["reference"] if reason else []
    return [*metadata["tool"]["fasttunnel"]["dependencies"], *extra]


class BuildPython(build_py):
    """Writes down why the modules are missing."""

    reason: str | None = None

    def run(self) -> None:
        super().run()
        if self.reason and not self.editable_mode:
            Path(self.build_lib, NOT_COMPILED.relative_to("src")).write_text(f"{self.reason}\n")


def compiler_flags() -> list[str]:
    flags = ["-Wall", "-Wno-unused-function", "-O0" if DEBUG else "-O3"]
    if DEBUG or SANITIZE:
        flags += ["-g", "-fno-omit-frame-pointer"]
    if STATIC:
        flags += ["-g0"]  # Python's own flags ask for what a debugger needs
    if SANITIZE:
        flags += ["-fsanitize=address,undefined"]
    if COVERAGE:
        flags += ["-fsanitize-coverage=trace-pc"]
    return flags


def hidden(module: str) -> list[str]:
    """Nothing but the module's own entry is seen from outside: the process may have other copies of these libraries."""
    if sys.platform == "darwin":
        return [f"-Wl,-exported_symbol,_PyInit_{module}"]
    return ["-Wl,--exclude-libs,ALL"]


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
                    extension.extra_link_args += libraries(library)
            if STATIC:
                extension.extra_link_args += hidden(source.stem)
        else:
            extension.depends += [str(part) for part in sorted((PACKAGE / "core").glob("*.pxi"))]
        found.append(extension)
    return found


def main() -> None:
    os.chdir(ROOT)
    if "sdist" in sys.argv:  # nothing is compiled, and nothing looked for
        setup(install_requires=dependencies(None))
        return
    reason = why_not()
    if {"egg_info", "dist_info"} & set(sys.argv):
        setup(install_requires=dependencies(reason))
        return
    if reason:
        print(f"note: fasttunnel is installed without its compiled engine: {reason}{INSTALL}", file=sys.stderr)
        print("and install again. Until then it runs on the asyncio engine, which is slower.", file=sys.stderr)
        BuildPython.reason = reason
        setup(install_requires=dependencies(reason), cmdclass={"build_py": BuildPython})
        return

    from Cython.Build import cythonize

    # Objects of a build with other switches must not be mixed with ours, also when this build fails half-way.
    switches = f"debug={DEBUG} sanitize={SANITIZE} coverage={COVERAGE} annotate={ANNOTATE} static={STATIC}"
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
    options = {"force": force, "parallel": os.cpu_count() or 1}
    in_place = bool({"build_ext", "editable_wheel"} & set(sys.argv))
    if in_place:  # what `pip install -e` has compiled is up to date for `make build`
        options |= {"build_lib": "build/lib", "build_temp": "build/temp"}
    setup(ext_modules=modules, install_requires=dependencies(None), options={"build_ext": options})
    if in_place:
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(switches)


if __name__ == "__main__":  # cythonize's workers may import this file
    main()

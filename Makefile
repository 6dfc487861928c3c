# Every command of a developer. `make demo` and `make test` do all they need by themselves, on a fresh machine with
# Python 3.11 or newer, a C compiler and make.

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PROTO_TOOLS := grpcio-tools==1.76.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
NODE := tests/interop/node
APPLICATIONS := .venv-applications
VITE := tests/applications/vite

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# -- what is needed, each step once -----------------------------------------------------------------------------------

$(VENV)/created: tools/system-packages
	@test -n "$(PYTHON)" || { echo "fasttunnel needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	@tools/system-packages build $(PYTHON)
	@echo "creating $(VENV) with $$($(PYTHON) -V)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what the build needs: pip, setuptools, cython"
	@$(PIP) install --upgrade pip "setuptools>=77" "cython>=3.1"
	@touch $@

# The dependencies of an extra; the editable install builds the extension modules as well.
$(VENV)/with-%: $(VENV)/created pyproject.toml
	@echo "installing fasttunnel[$*] and what it needs; this compiles the extension modules, so it takes a minute or two"
	@$(PIP) install --no-build-isolation -e ".[$*]"
	@touch $@

$(VENV)/peers: tools/system-packages
	@tools/system-packages test
	@touch $@

# Packages of the Node.js test clients; without npm those tests are skipped by name.
$(VENV)/node: $(wildcard $(NODE)/package.json) | $(VENV)/peers
	@if [ -f $(NODE)/package.json ] && command -v npm >/dev/null; then \
		echo "installing the Node.js test clients"; \
		npm --prefix $(NODE) install --no-audit --no-fund --loglevel=error >/dev/null || echo "npm install failed"; \
	fi
	@touch $@

# Applications of other people, in an environment of their own: they are large, and want versions of their own.
$(APPLICATIONS)/created: tests/applications/requirements.txt $(VITE)/package.json | $(VENV)/created $(VENV)/peers
	@echo "installing JupyterLab and Streamlit (700 MB, into $(APPLICATIONS)) and Vite"
	@test -x $(APPLICATIONS)/bin/python || $(PYTHON) -m venv $(APPLICATIONS)
	@$(APPLICATIONS)/bin/python -m pip --disable-pip-version-check -q install -r tests/applications/requirements.txt
	@npm --prefix $(VITE) install --no-package-lock --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

# -- building ---------------------------------------------------------------------------------------------------------

BUILD := $(BIN)/python setup.py -q build_ext --inplace
SAY_BUILD := echo compiling the extension modules that are not up to date

.PHONY: build debug annotate
build: $(VENV)/created ## extension modules in place, optimised
	@$(SAY_BUILD)
	@$(BUILD)

debug: $(VENV)/created ## the same for debugging: -O0 -g, bounds and None checks, life-cycle counters
	@$(SAY_BUILD), for debugging
	@FASTTUNNEL_DEBUG=1 $(BUILD)

annotate: $(VENV)/created ## annotated HTML of every .pyx under build/cython
	@$(SAY_BUILD), annotated
	@FASTTUNNEL_ANNOTATE=1 $(BUILD)
	@find build/cython -name '*.html'

# -- running ----------------------------------------------------------------------------------------------------------

.PHONY: demo test test-fast test-applications chaos soak fuzz asan asan-test bench bench-micro bench-instructions lint types
demo: $(VENV)/with-demo build ## server, client and three backends, with real traffic (ARGS=--keep: stay up)
	@echo "running the demo"
	@$(BIN)/fasttunnel demo $(ARGS)

JOBS := 2
test: $(VENV)/with-test build $(VENV)/peers $(VENV)/node ## the whole suite (ARGS: options of pytest; JOBS: side by side)
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-fast: $(VENV)/with-test build ## unit tests only
	@$(BIN)/python -m pytest tests/unit $(ARGS)

test-applications: $(VENV)/with-test build $(APPLICATIONS)/created ## JupyterLab, Vite, Streamlit and streams in a browser, through the tunnel
	@$(BIN)/python -m pytest tests/applications $(ARGS)

CHAOS_SECONDS := 120
chaos: $(VENV)/with-test build ## a mixed load while networks and processes fail, in all pairs of engines (ARGS: --seed N)
	@for server in cython asyncio; do for client in cython asyncio; do \
		$(BIN)/python -m tests.chaos --seconds $(CHAOS_SECONDS) --server $$server --client $$client $(ARGS) || exit 1; \
	done; done

SOAK_SECONDS := 1200
soak: $(VENV)/with-test build ## a steady load for 20 minutes on each engine: nothing may grow
	@for engine in cython asyncio; do \
		$(BIN)/python -m tests.chaos.soak --seconds $(SOAK_SECONDS) --server $$engine --client $$engine || exit 1; \
	done

# Python itself is not built with the sanitizers, so their library is loaded first, and what Python leaks is its affair.
# The library that counts what an input has reached is ours.
SANITIZED := FASTTUNNEL_SANITIZE=1 FASTTUNNEL_COVERAGE=1
REACHED := build/coverage.so
UNDER_SANITIZERS = LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so) $$($${CC:-cc} -print-file-name=libubsan.so) \
	$(CURDIR)/$(REACHED)" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=32:handle_segv=2 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

$(REACHED): tests/fuzz/coverage.c
	@mkdir -p $(@D)
	@$${CC:-cc} -O2 -shared -fPIC -o $@ $<

.PHONY: sanitized
sanitized: $(VENV)/with-test $(REACHED)
	@$(SAY_BUILD), with sanitizers
	@$(SANITIZED) $(BUILD)

SECONDS := 30
fuzz: sanitized ## mutated input for kernels and connections, under the sanitizers (SECONDS: of each target; ARGS: --target T)
	@$(UNDER_SANITIZERS) $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

# An alarm that rings within a callback of the loop would look like a fault of the connection: it rings late.
asan-test: sanitized ## unit, differential and fuzz tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(UNDER_SANITIZERS) $(BIN)/python -m pytest --timeout 900 -o faulthandler_timeout=890 \
		$(wildcard tests/unit tests/differential tests/fuzz) $(ARGS)

asan: asan-test ## the same

bench: $(VENV)/with-bench build ## every system at hand under the same loads, in ten minutes (python -m bench --help for more)
	@$(BIN)/python -m bench run --quick $(ARGS)

bench-micro: $(VENV)/with-bench build ## the kernels alone, against libraries that do the same
	@$(BIN)/python -m pytest bench/micro.py --benchmark-group-by=group --benchmark-columns=median,iqr,ops $(ARGS)

bench-instructions: $(VENV)/with-bench build ## instructions of the kernels per item, beside their bounds (needs valgrind)
	@$(BIN)/python -m bench instructions $(ARGS)

lint: $(VENV)/with-dev ## ruff and cython-lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/cython-lint --no-pycodestyle src/fasttunnel/engine

STUBS := $(wildcard src/fasttunnel/*.pyi src/fasttunnel/engine/*.pyi)
types: $(VENV)/with-dev build ## mypy, and the stubs of extension modules against the modules
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest --ignore-missing-stub --ignore-disjoint-bases \
		$(subst /,.,$(patsubst src/%.pyi,%,$(STUBS)))

# -- documents --------------------------------------------------------------------------------------------------------

.PHONY: docs generated
docs: $(VENV)/with-docs ## the documentation site, into build/site; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "build/site/index.html"

generated: $(VENV)/with-test build ## pages and pictures of docs/ and man pages that are made from the code
	@for tool in configuration command_line man_pages plots; do $(BIN)/python tools/$$tool.py || exit 1; done

# -- other ------------------------------------------------------------------------------------------------------------

.PHONY: proto clean
proto: ## Python code of proto/**/*.proto, with the protobuf version that pyproject.toml asks for at least
	@test -x build/proto/bin/python || $(PYTHON) -m venv build/proto
	@build/proto/bin/python -m pip --disable-pip-version-check -q install $(PROTO_TOOLS) setuptools
	@build/proto/bin/python proto/generate.py src/fasttunnel

clean: ## remove what was built, the virtual environment included
	@rm -rf build $(VENV) $(APPLICATIONS) src/*.egg-info $(NODE)/node_modules $(VITE)/node_modules
	@find src -name '*.so' -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every target works alone, on a fresh clone: it makes the environment that it needs.

PYTHON  ?= python3
ROOT    ?= examples/site
PORT    ?= 8000
OPTIONS ?=
MINUTES ?= 5

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check

.PHONY: help serve test test-simulated test-machine test-plain fuzz soak packages bench bench-cold bench-listing bench-asgi docs check-all clean
.DELETE_ON_ERROR:

help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
	@printf '\n  Variables:'
	@printf ' %s' $(foreach name,PYTHON ROOT PORT MINUTES OPTIONS,$(name)=$(call quoted,$(name)))
	@echo

# A variable as one word for the shell, whatever is in it: quotes, spaces, dollar signs.
quoted = '$(subst ','\'',$(value $1))'

# The example shows a folder without an index; what is in a folder of yours is shown if you say so.
LISTING := $(if $(subst examples/site,,$(value ROOT)),,--listing)

# The trap keeps the shell alive through ^C, so that the server can drain and make stays quiet.
# OPTIONS are words as the shell reads them: those with spaces are quoted in it.
serve: .venv/runtime  ## serve ROOT on PORT (OPTIONS='--help' lists what the server can do)
	@trap : INT; $(BIN)/python -m trio_amped --root=$(call quoted,ROOT) --port $(PORT) $(LISTING) \
	    $(value OPTIONS) || test $$? -eq 130

packages:  ## install what tests and benches use of Debian's (as root): .ci/packages
	.ci/install

test: .venv/test  ## lint, types, then all tests with branch coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/coverage erase
	$(MAKE) -j2 --output-sync=target test-simulated test-machine
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# Two halves at a time, since there are two cores: what nothing but the CPU keeps busy, and the rest,
# of whose tests there must never be two at once: they need the other core, a disk, or a browser.
SIMULATED := tests/fuzz tests/semantics tests/serving

test-simulated: .venv/test
	$(BIN)/coverage run -m pytest $(SIMULATED)

test-machine: .venv/test
	$(BIN)/coverage run -m pytest tests $(SIMULATED:%=--ignore=%)

test-plain: .venv/test  ## the tests with real servers once more by tasks and h11 alone
	$(BIN)/python -m pytest --no-fast-lane tests/real tests/clients tests/test_server.py

fuzz: .venv/test  ## run a fuzz campaign for MINUTES (OPTIONS='--help' lists how)
	$(BIN)/python -m fuzz run --minutes $(MINUTES) $(OPTIONS)

bench: .venv/bench  ## measure beside other servers, 90 minutes (OPTIONS=--short, --base, --only ROWS)
	$(BIN)/python -m bench.hot $(OPTIONS)

bench-cold: .venv/test  ## measure with files that are not in memory (as root; OPTIONS=--short)
	$(BIN)/python -m bench.cold $(OPTIONS)

bench-listing: .venv/test  ## measure while directories of 100 000 names are listed
	$(BIN)/python -m bench.listing $(OPTIONS)

bench-asgi: .venv/bench  ## measure the ASGI application beside Starlette's under one Hypercorn
	$(BIN)/python -m bench.asgi $(OPTIONS)

soak: .venv/test  ## serve all kinds of clients, MINUTES with threads and with processes; what is left?
	$(BIN)/python -m bench.soak --minutes $(MINUTES)

docs: .venv/docs  ## make the documentation, into build/docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

check-all:  ## test, 30 minutes of fuzz, 30 of soak (15 of each kind), the full benches (as root)
	$(MAKE) test
	$(MAKE) test-plain
	$(MAKE) docs
	$(MAKE) fuzz MINUTES=30 OPTIONS=
	$(MAKE) soak MINUTES=15
	$(MAKE) bench OPTIONS=
	$(MAKE) bench-cold OPTIONS=
	$(MAKE) bench-listing OPTIONS=
	$(MAKE) bench-asgi OPTIONS=

clean:  ## remove the environment and everything that tools left here
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in steps: each is a stamp, newer than what it was made from.

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "$(PYTHON) is Python %d.%d, 3.11 is needed: make PYTHON=/path/to/python3" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo '$(PYTHON) cannot make environments: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

# The groups of pyproject.toml need a pip that knows them, here and nowhere else.
.venv/pip: .venv/made
	$(INSTALL) 'pip >= 25.1'
	@touch $@

.venv/runtime: pyproject.toml .venv/made
	$(INSTALL) -e .
	@touch $@

.venv/test: pyproject.toml .venv/pip
	$(INSTALL) -e . --group test
	@touch $@ .venv/docs .venv/runtime

.venv/docs: pyproject.toml .venv/pip
	$(INSTALL) -e . --group docs
	@touch $@ .venv/runtime

.venv/bench: pyproject.toml .venv/pip
	$(INSTALL) -e . --group bench
	@touch $@ .venv/test .venv/docs .venv/runtime

# Every target works alone, on a fresh clone: it makes the environment that it needs.

PYTHON  ?= python3
ROOT    ?= examples/site
PORT    ?= 8000
OPTIONS ?=
MINUTES ?= 5
SEED    ?= $(shell date +%s)

VENV := .venv
BIN  := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check

.PHONY: help serve check check-pure check-serving lint test test-simulated test-unmeasured test-machine test-programs test-long test-plain fuzz soak inject packages bench bench-cold bench-listing bench-asgi experiments docs check-all clean
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
serve: $(VENV)/runtime  ## serve ROOT on PORT (OPTIONS='--help' lists what the server can do)
	@trap : INT; $(BIN)/python -m trio_amped --root=$(call quoted,ROOT) --port $(PORT) $(LISTING) \
	    $(value OPTIONS) || test $$? -eq 130

packages:  ## install what tests and benches use of Debian's (as root): .ci/packages
	.ci/install

# Several things at a time in all of these, where the longest begins. There are two cores: two of what
# they keep busy, and three where one of them waits for much of its time.
PARALLEL := --no-print-directory --output-sync=target

check: $(VENV)/test  ## the answer in a minute: lint, types, and tests that need nothing but Python
	@$(MAKE) $(PARALLEL) -j2 check-serving check-pure lint

lint: $(VENV)/test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-pure: $(VENV)/test
	$(BIN)/python -m pytest tests/semantics tests/test_layers.py tests/test_surface.py tests/test_warnings.py

check-serving: $(VENV)/test
	$(BIN)/python -m pytest --brief tests/serving tests/fuzz/test_properties.py tests/fuzz/test_values.py

test: $(VENV)/test  ## all that a change can break: lint, types, tests with branch coverage
	$(BIN)/coverage erase
	@$(MAKE) $(PARALLEL) -j4 test-machine test-programs test-simulated test-unmeasured lint
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# In four parts. Of the tests with disks and clients there must never be two at once: they make the
# kernel forget, and need a browser. Programs are started and waited for; what is simulated needs the
# CPU alone. What the fuzzer and tables of whole requests reach, the others reach as well: they are
# not measured, which would take as long again.
MACHINE    := tests/clients tests/disk tests/real tests/test_rig.py tests/test_server.py
SIMULATED  := tests/asgi tests/semantics tests/serving
UNMEASURED := tests/fuzz tests/semantics/test_reference.py tests/serving/rfc9110 \
    tests/serving/test_every_way.py tests/serving/test_reference.py

test-machine: $(VENV)/test
	$(BIN)/coverage run -m pytest $(MACHINE)

test-programs: $(VENV)/test
	$(BIN)/coverage run -m pytest tests $(addprefix --ignore=,$(MACHINE) $(SIMULATED) $(UNMEASURED))

test-simulated: $(VENV)/test
	$(BIN)/coverage run -m pytest $(SIMULATED) $(addprefix --ignore=,$(UNMEASURED))

test-unmeasured: $(VENV)/test
	$(BIN)/python -m pytest $(UNMEASURED)

test-long: $(VENV)/test  ## the tests that make test leaves out: they find little that it does not
	$(BIN)/python -m pytest -m long

test-plain: $(VENV)/test  ## the tests with real servers once more by tasks and h11 alone
	$(BIN)/python -m pytest --no-fast-lane tests/real tests/clients tests/test_server.py

fuzz: $(VENV)/test  ## run a fuzz campaign for MINUTES (OPTIONS='--help' lists how)
	$(BIN)/python -m fuzz run --minutes $(MINUTES) $(OPTIONS)

bench: $(VENV)/bench  ## measure beside other servers, 90 minutes (OPTIONS=--short, --base, --only ROWS)
	$(BIN)/python -m bench.hot $(OPTIONS)

bench-cold: $(VENV)/test  ## measure with files that are not in memory (as root; OPTIONS=--short)
	$(BIN)/python -m bench.cold $(OPTIONS)

bench-listing: $(VENV)/test  ## measure while directories of 100 000 names are listed
	$(BIN)/python -m bench.listing $(OPTIONS)

bench-asgi: $(VENV)/bench  ## measure the ASGI application beside Starlette's under one Hypercorn
	$(BIN)/python -m bench.asgi $(OPTIONS)

experiments: $(VENV)/bench  ## the paper's experiments, hours, as root; goes on where it was (OPTIONS=--short, --only 1,3)
	$(BIN)/python -m bench.experiments $(OPTIONS)

soak: $(VENV)/test  ## all kinds of clients and faults, MINUTES for each of four servers (as root)
	$(BIN)/python -m bench.soak --minutes $(MINUTES) $(OPTIONS)

inject: $(VENV)/test  ## make each system call fail, for hours; a random draw for MINUTES (as root)
	$(BIN)/python -m bench.inject --seed $(SEED) --minutes $(MINUTES) $(OPTIONS)

docs: $(VENV)/docs  ## make the documentation, into build/docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

check-all:  ## test, 30 minutes of fuzz, of soak (10 of each server) and of inject, the full benches (as root)
	$(MAKE) test
	$(MAKE) test-long
	$(MAKE) test-plain
	$(MAKE) docs
	$(MAKE) fuzz MINUTES=30 OPTIONS=
	$(MAKE) soak MINUTES=10 OPTIONS=
	$(MAKE) inject MINUTES=30 OPTIONS=
	$(MAKE) bench OPTIONS=
	$(MAKE) bench-cold OPTIONS=
	$(MAKE) bench-listing OPTIONS=
	$(MAKE) bench-asgi OPTIONS=

clean:  ## remove the environment and everything that tools left here
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in steps: each is a stamp, newer than what it was made from.

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "$(PYTHON) is Python %d.%d, 3.11 is needed: make PYTHON=/path/to/python3" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo '$(PYTHON) cannot make environments: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The groups of pyproject.toml need a pip that knows them, here and nowhere else.
$(VENV)/pip: $(VENV)/made
	$(INSTALL) 'pip >= 25.1'
	@touch $@

$(VENV)/runtime: pyproject.toml $(VENV)/made
	$(INSTALL) -e .
	@touch $@

$(VENV)/test: pyproject.toml $(VENV)/pip
	$(INSTALL) -e . --group test
	@touch $@ $(VENV)/docs $(VENV)/runtime

$(VENV)/docs: pyproject.toml $(VENV)/pip
	$(INSTALL) -e . --group docs
	@touch $@ $(VENV)/runtime

$(VENV)/bench: pyproject.toml $(VENV)/pip
	$(INSTALL) -e . --group bench
	@touch $@ $(VENV)/test $(VENV)/docs $(VENV)/runtime

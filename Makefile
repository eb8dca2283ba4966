# Every target makes the environment it needs from nothing, with venv and uv, and makes it again when
# pyproject.toml changes. PYTHON and NEWEST_PYTHON may name other interpreters.

PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
BENCH := .venv-bench
ANNBATCH := .venv-annbatch
NEWEST_PYTHON ?= $(shell for p in python3.13 "$$HOME"/.pyenv/versions/3.13*/bin/python; do \
	"$$p" -c pass >/dev/null 2>&1 && echo "$$p" && break; done)

# What is imported is compiled, once: uv compiles nothing, and compiling all takes longer than the installation itself.
export PYTHONDONTWRITEBYTECODE :=
# Which torch these environments get; where nothing needs torch, nothing is installed for it.
CONSTRAINED := -c constraints.txt
# A worker for every processor, four at most: each takes some 1.5 GB. Each begins with tests side by side, which share
# what their module sets up, and takes over tests of another one in the end. `WORKERS=` tests in one process.
WORKERS := -n logical --maxprocesses=4 --dist worksteal
PYTEST = -m pytest --benchmark-disable $(WORKERS)
# Workers fill the processors: more threads of torch would only wait for one another, which takes processor time too.
# The tests of threads set their number themselves.
tests tiny-blocks test-newest: export OMP_NUM_THREADS := 1

# The tests that compare every answer with brute force, once more with blocks of 3; the widest sets prove nothing then.
BRUTE_FORCE := $(addprefix tests/,test_queries.py test_neighbours.py test_selection.py test_named_mutants.py) -k "not 65 and not great"

.PHONY: help demo test lint tests tiny-blocks beside test-newest docs dist-test mutants bench clean

help:
	@echo "make demo         build the example stores and show what makes a feature fire"
	@echo "make test         lint, types, layers, tests, benchmarks once, code blocks of the documentation"
	@echo "make test-newest  the tests that versions matter to, on Python 3.13 with the newest zarr and xarray, without torch"
	@echo "make lint         the first three of make test"
	@echo "make docs         build the documentation site into site/; every warning is an error"
	@echo "make dist-test    build the sdist and the wheel, and check what is in them; part of make test"
	@echo "make mutants      change the core in small ways and count the changes that its tests notice, some hours"
	@echo "make bench        measure saestore beside its peers, 10 to 20 minutes, and put the results into the pages"
	@echo "make clean        remove the environments and caches"

demo: $(VENV)/demo.stamp
	$(VENV)/bin/python examples/demo.py

test: lint tiny-blocks tests

tests: $(VENV)/test.stamp
	$(VENV)/bin/python $(PYTEST)

tiny-blocks: $(VENV)/test.stamp
	$(VENV)/bin/python $(PYTEST) --tiny-blocks $(BRUTE_FORCE)

# All but the tests themselves, for `make -j2 WORKERS=`: what takes one processor each, with its environment, side by side.
beside: test-newest lint docs tiny-blocks

lint: $(VENV)/test.stamp
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

test-newest:
ifeq ($(strip $(NEWEST_PYTHON)),)
	@echo "make test-newest: skipped, no Python 3.13 here (looked for python3.13 and ~/.pyenv/versions/3.13*);" \
		"set NEWEST_PYTHON to run it"
else
	@$(MAKE) --no-print-directory $(NEWEST)/test.stamp
	$(NEWEST)/bin/python $(PYTEST) -m "not once" tests
endif

docs: $(VENV)/test.stamp
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "The site is in site/: open site/index.html"

dist-test: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest --benchmark-disable tests/test_distribution.py

mutants: $(VENV)/test.stamp
	$(VENV)/bin/python tests/mutants.py

bench: $(BENCH)/bench.stamp $(if $(strip $(NEWEST_PYTHON)),$(ANNBATCH)/bench.stamp)
	$(BENCH)/bin/python -m pytest benchmarks --full --benchmark-columns=median,iqr,rounds
	$(BENCH)/bin/python -m benchmarks.scale
	$(BENCH)/bin/python -m benchmarks.report

clean:
	rm -rf $(VENV) $(NEWEST) $(BENCH) $(ANNBATCH) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The stamps come last in each recipe: an installation that was cut short is taken up again by the next call.
$(VENV)/demo.stamp: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a minute, once"
	$(PYTHON) -m venv $(VENV)
	.ci/install $(VENV) $(CONSTRAINED) -e '.[all]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for all that follows"
	$(PYTHON) -m venv $(VENV)
	.ci/install $(VENV) $(CONSTRAINED) -e '.[all,test,lint,docs]'
	@touch $(VENV)/demo.stamp $@

$(NEWEST)/test.stamp: pyproject.toml
	@echo "Setting up $(NEWEST) with $(NEWEST_PYTHON)"
	$(NEWEST_PYTHON) -m venv $(NEWEST)
	.ci/install $(NEWEST) --upgrade -e '.[test]'
	@touch $@

# Apart from the tests' environment: the peers bring much that saestore has no use for.
$(BENCH)/bench.stamp: pyproject.toml constraints.txt benchmarks/requirements/peers.txt benchmarks/requirements/delphi.txt
	@echo "Setting up $(BENCH)"
	$(PYTHON) -m venv $(BENCH)
	.ci/install $(BENCH) $(CONSTRAINED) -e '.[sae,plot,test]' -r benchmarks/requirements/peers.txt
	.ci/install $(BENCH) --no-deps -r benchmarks/requirements/delphi.txt
	@touch $@

# One peer needs a newer Python than torch has here; without that Python it is left out.
$(ANNBATCH)/bench.stamp: benchmarks/requirements/annbatch.txt
	@echo "Setting up $(ANNBATCH) with $(NEWEST_PYTHON)"
	$(NEWEST_PYTHON) -m venv $(ANNBATCH)
	.ci/install $(ANNBATCH) -r benchmarks/requirements/annbatch.txt
	@touch $@

# Every command of a working copy: one line each, set up by itself in .venv.
#
# A finished set-up leaves a stamp, so later calls need no network. A set-up that was interrupted leaves
# its marker instead: the next call throws the half-made .venv away and starts anew.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
RUNTIME := $(VENV)/runtime-is-ready
TESTING := $(VENV)/testing-is-ready
DOCUMENTING := $(VENV)/documenting-is-ready
MARKER := $(VENV)/set-up-in-progress
TORCH := torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help demo demos test test-fast mutate lint docs bench soak screenshots clean

help:
	@echo "make demo         register a phantom pair and show what came of it (demo-output/)"
	@echo "make demos        train every demo of Docs/demos for a minute or two (or DEMO=name), write its figures"
	@echo "make test         run every test, headless"
	@echo "make test-fast    run those that take little time: two minutes of one processor"
	@echo "make mutate       change one thing at a time in a room (ROOM=space), tell what no test notices"
	@echo "make lint         check the style with ruff and the types with mypy"
	@echo "make docs         build the documentation site (site/), strictly: a broken link is an error"
	@echo "make bench        measure models that learn, SLIC-Reg, every real case beside other programs (if the Python"
	@echo "                  PEERS_PYTHON has them), robustness, growth and many pairs; write their tables into Docs"
	@echo "make soak         read 10 000 damaged files; kill the long commands 1 000 times and look at what is left"
	@echo "make screenshots  picture the Slicer panel and slice views into Docs/screenshots/"
	@echo "make clean        remove .venv and everything that was made here"

demo: $(RUNTIME)
	$(PY) -m RegCore demo --out demo-output

demos: $(TESTING)
	$(PY) Testing/benchmarks/demos.py $(DEMO)

# In two processes with a thread each: one alone keeps two cores only half busy.
test: $(TESTING)
	@mkdir -p Testing/output; export QT_QPA_PLATFORM=offscreen OMP_NUM_THREADS=1; \
	$(PY) -m pytest Testing/RegCore > Testing/output/RegCore.txt 2>&1 & core=$$!; \
	$(PY) -m pytest Testing --ignore=Testing/RegCore -p no:cacheprovider; rest=$$?; \
	wait $$core; core=$$?; cat Testing/output/RegCore.txt; exit $$((core + rest))

test-fast: $(TESTING)
	OMP_NUM_THREADS=1 QT_QPA_PLATFORM=offscreen $(PY) -m pytest Testing -m "not slow"

mutate: $(TESTING)
	QT_QPA_PLATFORM=offscreen $(PY) Testing/mutate.py $(or $(ROOM),space)

lint: $(TESTING)
	$(PY) -m ruff check .
	$(PY) Testing/check_types.py

docs: $(DOCUMENTING)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench: $(TESTING)
	$(PY) Testing/benchmarks/learning.py --write
	$(PY) Testing/benchmarks/general.py --write
	$(PY) Testing/benchmarks/slicreg.py
	$(PY) Testing/benchmarks/template.py --write
	$(PY) Testing/benchmarks/cases.py --peers
	$(PY) Testing/benchmarks/robustness.py --write
	$(PY) Testing/benchmarks/large_motion.py --write
	$(PY) Testing/benchmarks/failures.py --write
	$(PY) Testing/benchmarks/trust.py --write
	$(PY) Testing/benchmarks/growth.py --write
	$(PY) Testing/benchmarks/scale.py --write

soak: $(TESTING)
	$(PY) -m Testing.fuzz 10000
	OMP_NUM_THREADS=1 $(PY) -m Testing.soak 1000
	$(PY) -m pytest Testing/test_deepreg_scripts.py --all-merges

screenshots: $(TESTING)
	QT_QPA_PLATFORM=offscreen $(PY) Testing/screenshots.py

clean:
	rm -rf $(VENV) build dist demo-output bench-output site Testing/output *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml $(wildcard Resources/requirements.txt)
	@if [ -e $(MARKER) ] || ! $(PY) -m pip --version >/dev/null 2>&1; then rm -rf $(VENV); fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "DeepRegSlicer needs Python 3.10 or newer; choose one with: make PYTHON=python3.12"; exit 1; }
	@[ -d $(VENV) ] || { echo "Setting up $(VENV), once"; $(PYTHON) -m venv $(VENV); }
	@touch $(MARKER)
	$(PIP) $(TORCH)
	$(PIP) "setuptools>=77"
	$(PIP) --no-build-isolation --editable .
	@rm $(MARKER)
	@touch $@

$(TESTING): $(RUNTIME)
	sh Testing/system-packages.sh
	@touch $(MARKER)
	$(PIP) --no-build-isolation --editable ".[test]"
	@rm $(MARKER)
	@touch $@

$(DOCUMENTING): $(RUNTIME)
	@touch $(MARKER)
	$(PIP) --no-build-isolation --editable ".[docs]"
	@rm $(MARKER)
	@touch $@

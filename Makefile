# make train: from a fresh machine to a trained team. make test: everything that has to hold; checks and kernels are its
# parts. make mutants: whether the tests of the pure functions would notice. make docs: the documentation as a site, in
# build/docs; make docs-serve shows it. make originals: SMAClite, SMAC and SMACv2 themselves, from the checkouts in the
# folder ORIGINALS (docs/environments.md).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ORIGINALS ?= originals

.PHONY: train test checks kernels slow mutants originals docs docs-serve format clean

train: $(VENV)/installed
	$(BIN)/amal fit --config quickstart
	@run=$$(ls -td runs/mappo-2s3z-seed0*/ | head -1) && \
	$(BIN)/amal validate --config $${run}config.yaml --ckpt_path $${run}checkpoints/best.ckpt && \
	echo "learning curve: $${run}win_rate.png   battle: $${run}battle.gif" && \
	echo "before the next command: source .venv/bin/activate"

test: $(VENV)/installed
	@$(MAKE) --no-print-directory --jobs=2 --output-sync checks kernels
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not originals" -n auto --maxprocesses 8 --dist worksteal

checks: docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Compiled once, beside the checks, and not by several tests at the same time.
kernels: $(VENV)/installed
	rm -rf build/kernels
	$(BIN)/amal fit --config amal --data.scenario 3m --data.env_steps 1 --model.world_model.steps 1 --out build/kernels

slow: $(VENV)/installed
	$(BIN)/pytest -m slow

mutants: $(VENV)/installed
	$(BIN)/python tests/tools/mutants.py

originals: $(VENV)-originals/installed
	OMP_NUM_THREADS=1 ORIGINALS=$(ORIGINALS) $(VENV)-originals/bin/pytest -m originals -vv -rs tests/backends/originals

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/docs

docs-serve: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.lock
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # some are for other versions of Python
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)-originals/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)-originals
	$(VENV)-originals/bin/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(VENV)-originals/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[sc2,smaclite]" websockets
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-originals build *.egg-info

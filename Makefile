# Everything runs in .venv, which `make install` creates: the CPU build of every part.
PYTHON ?= python3.11
TORCH := 2.13.0
MERGEKIT := 0.1.5
PEFT := 0.21.2
ACCELERATE := 1.15.0
TRACKIO := 0.43.0
MLFLOW := 3.17.2
WANDB := 0.31.0
SKYPILOT := 0.14.1
BIN := .venv/bin
# Tests are compiled once, also where the environment says to keep no bytecode.
export PYTHONDONTWRITEBYTECODE :=
SIDE_BY_SIDE := --numprocesses=2 --dist=loadfile --no-loadscope-reorder
STAMP := .venv/.installed
FAULTS := tests/system/test_faults_*.py tests/system/test_hostile_peers.py \
  tests/system/test_full_disk.py \
  tests/unit/master/journal/storage/test_journal_damage.py tests/property/test_protocol_state.py \
  tests/property/test_poisonous_vectors.py tests/property/test_repetition.py \
  tests/property/test_hostile_input.py

.PHONY: install demo test test-vllm test-others test-fast test-hot-load test-mergekit \
  test-peft test-trackers test-skypilot test-faults lint docs clean

install: $(STAMP)

# PyTorch comes first and by itself: the plain index offers only CUDA builds of it for Linux.
define install-torch
	$(1) -m pip install --quiet "torch==$(TORCH)+cpu" 2>/dev/null \
	  || $(1) -m pip install --quiet "torch==$(TORCH)+cpu" \
	       --index-url https://download.pytorch.org/whl/cpu \
	  || { echo "the CPU build of torch $(TORCH) could not be installed: it is needed from" \
	       "https://download.pytorch.org/whl/cpu, or as a wheel in a folder named by PIP_FIND_LINKS" >&2; exit 1; }
endef

# Bytecode is compiled once for all: three processes that start together would each do it.
$(STAMP): pyproject.toml worker/cpu-overrides.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "apbmm needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing into .venv: two or three minutes, and the time of the downloads"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet uv
	@$(call install-torch,$(BIN)/python)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --override worker/cpu-overrides.txt \
	  --editable '.[master,worker-cpu,test,docs]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib >/dev/null 2>&1 || true
	@touch $@

# For instance: make demo ARGS="--evaluations 30"
demo: install
	$(BIN)/apbmm demo $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cli common master worker tests benchmarks examples
	$(BIN)/lint-imports

# Warnings are errors; the run-file reference is rendered from the schema.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site

# Each process of pytest takes one file after the other; those that are quick come last. Engines
# compute and the other tests mostly wait, so there are more processes than processors. Those with
# engines collect only the files that have one of their tests.
test: install
	+@$(MAKE) --jobs=3 --keep-going --output-sync=target --no-print-directory \
	  test-others test-vllm lint docs

test-vllm: install
	$(BIN)/pytest $(SIDE_BY_SIDE) -m vllm \
	  $$(grep --recursive --files-with-matches --include='test_*.py' 'mark\.vllm' tests | sort)

test-others: install
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not vllm"

test-fast: install
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not vllm and not slow" tests/property tests/system tests/unit

# Fifty random merges of every kind of model, each against a fresh engine: about half an hour.
test-hot-load: install
	APBMM_TEST_MERGES=50 $(BIN)/pytest tests/e2e/test_hot_load.py tests/e2e/test_hot_load_families.py

# Merges beside those of the real mergekit, in an environment of its own: its pins are not ours.
test-mergekit: .venv/mergekit/.installed
	APBMM_MERGEKIT_PYTHON=$(CURDIR)/.venv/mergekit/bin/python \
	  $(BIN)/pytest tests/unit/worker/merging/test_merge_mergekit.py tests/unit/cli/export/test_export_mergekit.py

.venv/mergekit/.installed: $(STAMP)
	$(PYTHON) -m venv --clear .venv/mergekit
	$(call install-torch,.venv/mergekit/bin/python)
	$(BIN)/uv pip install --quiet --python .venv/mergekit/bin/python \
	  --override worker/cpu-overrides.txt mergekit==$(MERGEKIT)
	touch $@

# LoRA adapters beside those that the real PEFT merges.
test-peft: .venv/peft/.installed
	PYTHONPATH=$(CURDIR)/.venv/peft $(BIN)/pytest tests/unit/worker/merging/test_adapted_sources.py

.venv/peft/.installed: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .venv/peft \
	  peft==$(PEFT) accelerate==$(ACCELERATE)
	touch $@

# Runs sent to the real Trackio, MLflow and W&B, in an environment of their own: their pins are not
# ours. It holds them before what it borrows from .venv.
test-trackers: .venv/trackers/.installed
	APBMM_TRACKERS_PYTHON=$(CURDIR)/.venv/trackers/bin/python \
	  $(BIN)/pytest tests/unit/master/followers/test_real_trackers.py

.venv/trackers/.installed: $(STAMP)
	$(PYTHON) -m venv --clear .venv/trackers
	$(BIN)/uv pip install --quiet --python .venv/trackers/bin/python \
	  trackio==$(TRACKIO) mlflow==$(MLFLOW) wandb==$(WANDB)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > $$(.venv/trackers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_apbmm.pth
	touch $@

# The task of SkyPilot, as SkyPilot itself reads it, in an environment of its own.
test-skypilot: .venv/skypilot/.installed
	APBMM_SKYPILOT_PYTHON=$(CURDIR)/.venv/skypilot/bin/python \
	  $(BIN)/pytest tests/unit/project/test_cluster_examples.py -k skypilot

.venv/skypilot/.installed: $(STAMP)
	$(PYTHON) -m venv --clear .venv/skypilot
	$(BIN)/uv pip install --quiet --python .venv/skypilot/bin/python skypilot==$(SKYPILOT)
	touch $@

# Every fault test with its full counts, which takes about an hour; prints what was counted.
# `make test` runs the same tests with few: APBMM_FAULT_SCALE is the share of the full counts.
test-faults: install
	APBMM_FAULT_SCALE=1 $(BIN)/pytest $(FAULTS)

clean:
	rm -rf .venv runs site

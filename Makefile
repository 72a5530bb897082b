# `make` lists the targets; each sets up what it needs, and a second run of any is instant.
PYTHON := python3
BIN := .venv/bin
LAB := jupyter_ext/labextension
LINK := .venv/share/jupyter/labextensions/hyper-kernel
# Files of tests beside each other: an emulated machine keeps one processor busy, and most of the others idle.
BESIDE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
NODE := cd $(LAB) && export PATH="$(CURDIR)/$(BIN):$$PATH"

help: ## what can be made (this list)
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: setup ## run the first notebook, every cell in a sandbox, and print what it shows
	@$(BIN)/python -m hyper_kernel.cli.demo

lab: setup ## open JupyterLab on the example notebooks, with Hyper Python in its launcher
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

setup: .venv/installed labextension ## install what is missing, then build the guest and the base image
	@$(BIN)/hyper setup

labextension: build/labextension/package.json $(LINK) ## build what JupyterLab shows, and link it into the environment

test: setup test-packages ## the whole test suite, with real virtual machines and a real browser
	@$(BIN)/pytest $(BESIDE) tests --ignore tests/security
	@$(BIN)/pytest tests/security  # measures, and counts descriptors: with nothing beside it, in a process of its own
	@$(BIN)/pytest $(BESIDE) tests/browser

check: .venv/installed ## format, lint, types, floors and other rules of the house; changes nothing
	@$(BIN)/pytest tests/style

fix: .venv/installed ## format, and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

fuzz: .venv/installed ## let every fuzzer have a million inputs; takes an hour
	@$(BIN)/python -m tests.security.fuzz

outside: setup ## suites and clients that others wrote, against our kernels
	@$(BIN)/pytest tests/outside

browser: setup test-packages ## in a real JupyterLab: a person's way through it, attacks on their browser, and what must still show
	@$(BIN)/pytest tests/browser

pictures: setup test-packages ## take the README's pictures anew
	@$(BIN)/pytest tests/browser/test_lab_journey.py tests/browser/test_lab_deaths.py tests/browser/test_lab_review.py \
		--pictures docs

bench: setup ## how fast and how small, as ratios
	@$(BIN)/python -m tests.performance

test-kvm: setup ## the hardware path (KVM, vhost-vsock) inside an emulated machine that has it
	@$(BIN)/python -m tests.kvm

bench-kvm: setup ## the benchmarks there: slow, but with the ratios of a host that has KVM
	@$(BIN)/python -m tests.kvm --bench

freeze: .venv/installed ## write the environment's pinned packages to .ci/requirements.txt
	@{ head -n 1 .ci/requirements.txt; $(BIN)/pip freeze --exclude-editable; } > .venv/frozen
	@mv .venv/frozen .ci/requirements.txt

clean: ## remove the environment and what was built in this folder
	@rm -rf .venv build dist $(LAB)/node_modules $(LAB)/lib .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: .ci/requirements.txt pyproject.toml | packages
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r .ci/requirements.txt
	@SKIP_JUPYTER_BUILDER=1 $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@rm -rf $(LINK)
	@touch $@

build/labextension/package.json: $(LAB)/node_modules/.yarn-state.yml $(LAB)/tsconfig.json $(shell find $(LAB)/src $(LAB)/style $(LAB)/schema -type f)
	@mkdir -p build
	@($(NODE) && jlpm run build) > build/labextension.log 2>&1 || { cat build/labextension.log; exit 1; }
	@touch $@

$(LAB)/node_modules/.yarn-state.yml: $(LAB)/package.json $(LAB)/yarn.lock $(LAB)/.yarnrc.yml | .venv/installed
	@mkdir -p build
	@($(NODE) && YARN_NPM_REGISTRY_SERVER="$$(npm config get registry)" jlpm install --immutable) > build/node_modules.log 2>&1 || \
		{ cat build/node_modules.log; exit 1; }
	@touch $@

$(LINK): | build/labextension/package.json
	@mkdir -p $(@D) && ln -sfn $(CURDIR)/build/labextension $@

packages:
	@sh hyper_kernel/host/install_packages.sh

test-packages:
	@sh hyper_kernel/host/install_packages.sh tests/packages.txt

.PHONY: help demo lab setup labextension test check fix fuzz outside browser pictures bench test-kvm bench-kvm freeze clean packages test-packages

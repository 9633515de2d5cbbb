# The commands of the book. `make` alone lists them.
#
#   make book PYTHON=/path/to/python3.12      another interpreter
#   make test ONLY=pytest,nbval               some of the checks
#   make notebooks NAMES="03 04"              some of the chapters
#   make test CHROMIUM=/path/to/chrome        another browser

PYTHON ?=
ONLY ?=
NAMES ?=
PY := .venv/bin/python
SEARCH := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11 python)
FIRST := $(firstword $(foreach name,$(SEARCH),$(shell command -v $(name) 2>/dev/null)))

# What the site is made of: it is built again when one of these is newer than the last build.
# The stamp lies inside the site, so that it goes when a build starts from nothing.
SOURCES := $(shell find book effedu tools -type f -not -path '*/_build/*' \
	-not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' 2>/dev/null) requirements.txt
SITE := book/_build/html/.built

.DEFAULT_GOAL := help
.PHONY: help book site test lab notebooks bench train screenshot wheel setup clean clean-all

help: ## this list
	@echo "Efficient Transformers, Live"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

book: site ## set up, build the site, serve it on this machine
	@$(PY) -m tools.site serve

site: $(SITE) ## set up, build the site below book/_build/html

$(SITE): $(SOURCES) | setup
	@$(PY) -m tools.site build
	@mkdir -p $(@D) && touch $@

test: setup ## set up, run every check, sum up (ONLY=pytest,nbval for some)
	@CHROMIUM="$(CHROMIUM)" $(PY) -m tools.check --only "$(ONLY)"

lab: setup ## the chapters in JupyterLab
	@echo "Starting JupyterLab in book/: stop it with Ctrl-C."
	@cd book && ../$(PY) -m jupyterlab chapters

notebooks: setup ## run the chapters again, store outputs and widget states (NAMES="03 04")
	@$(PY) -m tools.notebooks $(NAMES)

bench: setup ## measure speed and memory on this machine (about 20 minutes; resumes where it stopped)
	@$(PY) -m tools.bench
	@$(PY) -m tools.bench_linear

train: setup ## train the embedded language model again (hours; resumes where it stopped)
	@$(PY) -m tools.train_lm

screenshot: site ## the README's picture, from the built site
	@$(PY) -m tools.screenshot

wheel: setup ## the package as a wheel below dist/
	@$(PY) -m build --wheel --no-isolation --outdir dist .
	@rm -rf build

setup:
ifeq ($(FIRST),)
	@echo "No Python here ($(SEARCH)). The book needs Python 3.11 to 3.13; install one, or name it: make book PYTHON=/path/to/python3.12"; exit 1
else
	@$(FIRST) tools/install.py --python "$(PYTHON)"
endif

clean: ## remove what was built; keep .venv
	rm -rf book/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find book effedu tests tools -name __pycache__ -prune -exec rm -rf {} +
	find book -name .ipynb_checkpoints -prune -exec rm -rf {} +

clean-all: clean ## remove .venv too
	rm -rf .venv

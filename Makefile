# The commands of the book. `make` alone lists them.
#
#   make book PYTHON=/path/to/python3.12      another interpreter
#   make test ONLY=pytest,nbval               some of the checks
#   make notebooks NAMES="03 04"              some of the chapters
#   make test CHROMIUM=/path/to/chrome        another browser
#   make class COUNT=60                       a smaller class

PYTHON ?=
ONLY ?=
READER ?=
COUNT ?= 200
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
.PHONY: help book site test lab notebooks bench sweeps speech train screenshot exercises class bundle \
	publish colab lighthouse wheel setup clean clean-all

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

sweeps: setup ## measure chapters 08, 09, 10 and 12's models again (an hour and more; resumes where it stopped)
	@$(PY) -m tools.compression_sweep
	@$(PY) -m tools.train_positions
	@$(PY) -m tools.sweep
	@$(PY) -m tools.sweep_applications

speech: setup ## speak, train and store chapter 12's recognizers again (half an hour; resumes)
	@$(PY) -m tools.train_speech

train: setup ## train the embedded language model again (hours; resumes where it stopped)
	@$(PY) -m tools.train_lm

screenshot: site ## the README's picture, from the built site
	@$(PY) -m tools.screenshot

exercises: setup ## students' notebooks, solutions and autograders (book/_build/exercises)
	@$(PY) -m tools.exercises build $(NAMES)

class: setup ## grade a synthetic class of 200 in sandboxes, twice (COUNT=60 for fewer)
	@$(PY) -m tools.grade_class --size $(COUNT)

bundle: setup ## one archive for a classroom without a network, tried without one (dist/)
	@$(PY) -m tools.bundle --check

publish: setup ## the site, the wheel and Colab's notebooks, for EFFEDU_SITE_URL=https://… (book/_build/publish)
	@$(PY) -m tools.publish

colab: setup ## run Colab's notebooks in a clean environment (READER=python3.12 for another Python)
	@$(PY) -m tools.colab $(if $(READER),--reader $(READER)) $(NAMES)

lighthouse: site ## Lighthouse's scores of the built site, as a phone sees it (needs Node.js)
	@$(PY) -m tools.lighthouse

wheel: setup ## the package as a wheel below dist/
	@$(PY) -m tools.wheel

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

# The book's commands. `make` alone lists them.

VENV := .venv
BIN  := $(VENV)/bin
READY := $(VENV)/.ready
LOG  := $(VENV)/install.log

# Tried in this order; the versions in constraints.txt were tested on 3.11. `make demo PYTHON=/path/to/python` takes another.
PYTHON := python3.11 python3.12 python3.13 python3
# Where Linux finds PyTorch without CUDA (200 MB instead of 3 GB). `make demo TORCH_INDEX=` takes what pip finds by itself.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

PACKAGES := libosmesa6 fonts-dejavu-core
BROWSERS := chromium chromium-browser google-chrome
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.DEFAULT_GOAL := help
.PHONY: help demo test quick setup setup-system export notebooks readme docs example clean

help: ## list these commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

demo: setup ## train one agent on two Atari games and two small worlds in about five minutes, and write a report
	@$(BIN)/mow train demo --resume
	@$(BIN)/mow report demo

test: setup ## run every notebook and every test  (make test ARGS="-k replay")
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=10 --durations-min=5 $(ARGS)

quick: setup ## after changing a chapter: export, look at it, run it and the book's rules for it  (make quick CH=24)
	@$(BIN)/python tests/book.py quick $(CH)

setup: $(READY) ## make .venv with everything in it (the others call this by themselves)

$(READY): constraints.txt settings.ini setup.py
	@python=; for p in $(PYTHON); do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { python=$$p; break; }; done; \
	if [ -z "$$python" ]; then echo "mow_nb needs Python 3.11 or newer, and found $$(python3 --version 2>&1 | head -n 1)." >&2; exit 1; fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  $$python -c 'import ensurepip, venv' 2>/dev/null || { echo "$$python cannot make environments: 'make setup-system' (or apt-get install python3-venv) mends that." >&2; exit 1; }; \
	  echo "Making $(VENV) with $$($$python --version)."; \
	  $$python -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing what mow_nb needs: about 1 GB, a few minutes the first time. Details go to $(LOG)."
	@: > $(LOG); failed() { tail -n 15 $(LOG) >&2; echo "The installation failed; the whole story is in $(LOG)." >&2; exit 1; }; \
	pip() { $(BIN)/python -m pip --disable-pip-version-check "$$@" < /dev/null; }; \
	echo "  1/2 PyTorch"; \
	index=; if [ "$$(uname -s)" = Linux ] && [ -n "$(TORCH_INDEX)" ] && ! pip index versions torch 2>> $(LOG) | grep -qF '$(TORCH)+cpu'; \
	  then index="--extra-index-url $(TORCH_INDEX)"; fi; \
	pip install $$index --no-deps 'torch==$(TORCH)' >> $(LOG) 2>&1 || failed; \
	echo "  2/2 everything else"; \
	pip install -c constraints.txt -e '.[dev]' >> $(LOG) 2>&1 || failed; \
	touch $@; echo "Ready."

setup-system: ## install the system libraries that Meta-World and the browser tests need (Debian, Ubuntu; asks for sudo)
	@command -v apt-get > /dev/null || { echo "No apt-get here. Install OSMesa and Chromium (or Chrome) in your system's own way." >&2; exit 1; }; \
	need=; for p in $(PACKAGES); do dpkg -s $$p 2>/dev/null | grep -q '^Status: install ok installed' || need="$$need $$p"; done; \
	for b in $(BROWSERS); do command -v $$b; done | grep -q . || { grep -q '^ID=ubuntu' /etc/os-release && need="$$need chromium-browser" || need="$$need chromium"; }; \
	python3 -c 'import ensurepip' 2> /dev/null || need="$$need python3-venv"; \
	if [ -z "$$need" ]; then echo "All system packages are installed."; exit 0; fi; \
	echo "Installing$$need."; \
	$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$need > /dev/null && echo "Done."

export: setup ## write mow_nb/ from the notebooks, and clean them
	@$(BIN)/python tests/book.py export
	@$(BIN)/python tests/book.py clean

notebooks: setup ## run every notebook in place, keep the outputs, clean them
	@OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python tests/book.py execute

readme: setup ## write README.md from nbs/index.ipynb
	@$(BIN)/python tests/book.py readme

docs: setup ## make the site, to be read without network: _docs/index.html
	@$(BIN)/python tests/site/build.py _docs

example: setup ## make the runs again that come with the library (hours)
	@$(BIN)/mow train evening --name example --train.train-every 6 --resume
	@$(BIN)/mow train evening-robots --name example-robots --seed 1 --train.cooldown 0.1 \
		--tasks reach-v3,drawer-close-v3,door-close-v3 --resume
	@$(BIN)/python -c "from mow_nb.store.run_folder import SHIPPED; from mow_nb.training.share import ship; \
		[ship(f'runs/{word}', path) for word, path in SHIPPED.items()]"
	@$(BIN)/python -c "$(FILM)"

# the film on the front page, from the run that is shipped
FILM := from pathlib import Path; from mow_nb.eval.rollouts import load_strips, reel; \
  Path('nbs/images/film.webp').write_bytes(reel(load_strips(Path('mow_nb/data/example/analysis/strips.npz'))))

clean: ## remove what building and testing left behind (not .venv, not runs)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache _proc _docs .wheels gpu.txt
	@find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

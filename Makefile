# setup  a .venv with exact versions          demo   the whole benchmark, small and real, with its report
# test   the test suite                       lint   format, lint, types and import layers
# bench  speed, as ratios against references  clean  removes what the other targets made, and all of data/ and runs/
# test-exhaustive  every case of what the suite tries on samples
# test-pythons  the wheel alone, installed and tried with every Python of this machine
# test-exports  what 'geo4d-bench export' writes, opened and trained on by robomimic and LeRobot themselves
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
TASK := store_cereal
export MUJOCO_GL ?= egl

.PHONY: setup system demo test test-exhaustive test-pythons test-exports lint format bench clean

setup: .venv/installed

# Asked for by name, another Python than the environment's makes it anew.
VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
ifneq ($(filter command line environment,$(origin PYTHON)),)
ifneq ($(shell $(PYTHON) $(VERSION)),$(shell $(BIN)/python $(VERSION) 2>/dev/null))
.venv/installed: another-python
endif
endif
.PHONY: another-python

.venv/installed: pyproject.toml constraints.txt
	@# Told before anything is downloaded; in words that every Python understands.
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 15) else \
	  "geo4d-bench needs Python 3.11 to 3.14; $(PYTHON) is %d.%d. Name another: make setup PYTHON=python3.12" % v)'
	@$(MAKE) --no-print-directory system
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -q -c constraints.txt pip setuptools wheel
	@# Alone and first: without a pin, whatever asks for torch would pull gigabytes of CUDA packages.
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps robosuite
	$(BIN)/geo4d-bench doctor
	@touch $@

# What pip cannot bring: EGL and Mesa to render without a screen.
system:
	@missing=""; \
	ldconfig -p | grep -q 'libEGL\.so\.1' || missing="$$missing libegl1"; \
	ldconfig -p | grep -q 'libGL\.so\.1' || missing="$$missing libgl1"; \
	ls /usr/share/glvnd/egl_vendor.d/*.json >/dev/null 2>&1 || missing="$$missing libegl-mesa0 libgl1-mesa-dri"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	  else \
	    echo "This machine lacks what rendering and installation need. Type:"; \
	    echo "  sudo apt-get update && sudo apt-get install -y$$missing"; exit 1; \
	  fi; \
	fi

demo: setup
	@start=$$(date +%s); set -e; \
	$(BIN)/geo4d-bench datagen --task $(TASK) --episodes 24; \
	$(BIN)/geo4d-bench datagen --task $(TASK) --episodes 6 --split eval; \
	$(BIN)/geo4d-bench train --data data/$(TASK) --preset layered_nano --steps 600; \
	$(BIN)/geo4d-bench evaluate --checkpoint runs/$(TASK)/layered_nano --data data/$(TASK)_eval; \
	for policy in random expert oracle_pose oracle_video layered; do for views in seen novel; do \
	  $(BIN)/geo4d-bench rollout --task $(TASK) --policy $$policy --views $$views --episodes 10; \
	done; done; \
	$(BIN)/geo4d-bench report --task $(TASK); \
	echo "demo took $$(( ($$(date +%s) - start) / 60 )) min $$(( ($$(date +%s) - start) % 60 )) s"

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

test-exhaustive:
	@$(MAKE) --no-print-directory test TESTS="-m exhaustive $(TESTS)"

# Each Python gets an environment of its own; PYTHONS="3.12 3.13" names some, every one that is found otherwise.
test-pythons: setup
	$(BIN)/python tests/pythons/check_pythons.py $(if $(PYTHONS),--only $(PYTHONS))

# Each library has an environment of its own, because its pins exclude ours. Of torch the version is named of which pip
# finds a CPU build here (from PyPI it brings CUDA). robomimic, lerobot and torchvision go without their dependencies:
# they would pull another torch, and robomimic a C extension that only its simulators need; those that reading and
# training need are in tests/exports/*.txt. LeRobot then decodes with PyAV: torchcodec needs FFmpeg's own libraries.
EXPORTS := build/exports
ALONE_robomimic := robomimic==0.3.0 torchvision==0.25.0
ALONE_lerobot := lerobot==0.4.4 torchvision==0.25.0

test-exports: setup $(EXPORTS)/robomimic/installed $(EXPORTS)/lerobot/installed
	$(BIN)/geo4d-bench datagen --task $(TASK) --episodes 4 --out $(EXPORTS)/data
	rm -rf $(EXPORTS)/robomimic.hdf5 $(EXPORTS)/lerobot_v3
	$(BIN)/geo4d-bench export $(EXPORTS)/data --to robomimic --cameras cam00 cam08 --out $(EXPORTS)/robomimic.hdf5
	$(BIN)/geo4d-bench export $(EXPORTS)/data --to lerobot --cameras cam00 cam08 --out $(EXPORTS)/lerobot_v3
	$(EXPORTS)/robomimic/bin/python -W ignore tests/exports/check_robomimic.py $(EXPORTS)/robomimic.hdf5
	HF_HOME=$(EXPORTS)/cache $(EXPORTS)/lerobot/bin/python -W ignore tests/exports/check_lerobot.py \
	  $(EXPORTS)/lerobot_v3 $(EXPORTS)/robomimic.hdf5

$(EXPORTS)/%/installed: tests/exports/%.txt
	$(PYTHON) -m venv $(EXPORTS)/$*
	$(EXPORTS)/$*/bin/python -m pip install -q torch==2.13.0
	$(EXPORTS)/$*/bin/python -m pip install -q --no-deps $(ALONE_$*)
	$(EXPORTS)/$*/bin/python -m pip install -q -r $<
	@touch $@

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# The mapping of tasks/, datagen/ and policies/ into geo4d_bench exists only once installed.
	@rm -rf build/lint && mkdir -p build/lint
	@$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build/lint . && rm -rf build/lib build/bdist.*
	@cd build/lint && ../../$(BIN)/python -m zipfile -e geo4d_bench-*.whl .
	cd build/lint && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p geo4d_bench
	cd build/lint && PYTHONPATH=. ../../$(BIN)/lint-imports --config ../../pyproject.toml

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@set -e; for what in render rollout load train "train --busy 1" generate track; do \
	  $(BIN)/geo4d-bench bench $$what --out runs/bench; done

clean:
	rm -rf .venv build data runs *.egg-info .mypy_cache .ruff_cache .pytest_cache

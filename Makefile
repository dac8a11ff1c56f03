# setup  a .venv with exact versions          demo   the whole benchmark, small and real, with its report
# test   the test suite                       lint   format, lint, types and import layers
# bench  speed, as ratios against references  clean  everything that the targets above made
PYTHON ?= python3
BIN := .venv/bin
TASK := store_cereal
export MUJOCO_GL ?= egl

.PHONY: setup system demo test lint format bench clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory system
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt pip setuptools wheel
	@# Alone and first: without a pin, whatever asks for torch would pull gigabytes of CUDA packages.
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(BIN)/geo4d-bench doctor
	@touch $@

# What pip cannot bring: EGL and Mesa to render without a screen, OpenGL and GLib for OpenCV, and a C compiler
# with kernel and Python headers because evdev (needed by robosuite) is compiled at installation.
system:
	@missing=""; \
	ldconfig -p | grep -q 'libEGL\.so\.1' || missing="$$missing libegl1"; \
	ldconfig -p | grep -q 'libGL\.so\.1' || missing="$$missing libgl1"; \
	ldconfig -p | grep -q 'libglib-2\.0\.so\.0' || missing="$$missing libglib2.0-0"; \
	ls /usr/share/glvnd/egl_vendor.d/*.json >/dev/null 2>&1 || missing="$$missing libegl-mesa0 libgl1-mesa-dri"; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	test -e /usr/include/linux/input.h || missing="$$missing linux-libc-dev"; \
	$(PYTHON) -c 'import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())' \
	  || missing="$$missing python3-dev"; \
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
	$(BIN)/geo4d-bench train --data data/$(TASK) --preset nano --minutes 10; \
	$(BIN)/geo4d-bench evaluate --checkpoint runs/$(TASK)/nano --data data/$(TASK)_eval; \
	for policy in random expert oracle_pose oracle_video geo4d; do for views in seen novel; do \
	  $(BIN)/geo4d-bench rollout --task $(TASK) --policy $$policy --views $$views --episodes 10; \
	done; done; \
	$(BIN)/geo4d-bench report --task $(TASK); \
	echo "demo took $$(( ($$(date +%s) - start) / 60 )) min $$(( ($$(date +%s) - start) % 60 )) s"

test: setup
	$(BIN)/python -m pytest

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
	@set -e; for what in render rollout load generate track; do $(BIN)/geo4d-bench bench $$what --out runs/bench; done

clean:
	rm -rf .venv build data runs *.egg-info .mypy_cache .ruff_cache .pytest_cache

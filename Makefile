# make help says what there is. Choices: make setup PYTHON=python3.12 TORCH=2.12.1 EXTRAS=dali-cuda120,mlflow-server,test,dev HOROVOD=no
VENV    ?= .venv
BIN     := $(VENV)/bin
# Once the environment is there, the Python that made it.
PYTHON  ?= $(firstword $(wildcard $(BIN)/python) python3)
TORCH   ?=
EXTRAS  ?= dali,mlflow-server,test,dev
HOROVOD ?= yes
PORT    ?= 5000
PHOTOS  ?=
DATA    ?=
SEEDS   ?= 3
PARTS   ?=
OUT     ?=
JOBS    ?= 2
ROUNDS  ?= 50

# Ranks share the cores of one machine: one thread each, unless you know better.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo dashboard test test-unit fuzz faults audit lint format bench bench-gpu paper paper-gpu clean
.PHONY: photos-given data-given manifests image-check hosts-check slurm-check mlflow-check

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## virtual environment, pinned packages, Horovod built from source (minutes once, then a moment)
	@$(PYTHON) scripts/setup_venv.py --venv "$(VENV)" --torch "$(TORCH)" --extras "$(EXTRAS)" --horovod "$(HOROVOD)"

demo: setup  ## train three schedules on two workers, then compare them (three minutes)
	@VENV="$(VENV)" scripts/demo.sh

dashboard: setup  ## the MLflow page of the runs, on this machine only: make dashboard PORT=5000
	@test -f runs/mlflow.db || { echo "no runs yet: make demo"; exit 1; }
	@echo "http://127.0.0.1:$(PORT)  (Ctrl-C ends it)"
	@MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port $(PORT)

test: setup lint  ## everything that CI checks: lint, then unit, numerics and integration tests, JOBS files at a time
	$(BIN)/python -m pytest -n $(JOBS) -m unit
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m numerics
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "integration and not long"

test-unit: setup  ## the unit tests alone (under a minute)
	$(BIN)/python -m pytest -n $(JOBS) -m unit

fuzz: setup  ## arbitrary input for everything that reads a file, forty times what the unit tests try (five minutes)
	FUZZ_TIMES=40 $(BIN)/python -m pytest -q tests/unit/test_fuzz_*.py

faults: setup  ## kills runs at random moments and lets them go on, ROUNDS times (a quarter of an hour); hangs, recovery
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m benchmarks.faults --rounds $(ROUNDS)
	$(BIN)/python -m benchmarks.hangs
	$(BIN)/python -m benchmarks.recovery

manifests: setup  ## write the jobs of k8s/overlays anew, each by the command in its first line
	@for overlay in k8s/overlays/*; do \
		eval "$(BIN)/$$(sed -n '1s/^# Written by: //p' "$$overlay/kustomization.yaml") --out $$overlay" || exit; \
	done

image-check: setup  ## build the images and train in containers over ssh, without a Docker engine (as root; minutes)
	$(BIN)/python -m pytest -v tests/cluster/test_images.py tests/cluster/test_manifests_run.py
	@echo "images and layers are kept for the next time: podman image prune --all removes what nothing uses"

hosts-check: setup  ## several hosts, each with an ssh server and a link that can be cut (as root; minutes)
	$(BIN)/python -m pytest -raP tests/cluster/test_hosts.py

slurm-check: setup  ## a real Slurm of two nodes (as root; minutes)
	$(BIN)/python -m pytest -raP tests/cluster/test_slurm.py

mlflow-check: setup  ## an MLflow server on PostgreSQL, runs from several hosts, its pages in a browser (as root; minutes)
	$(BIN)/python -m pytest tests/cluster/test_mlflow_service.py

audit: setup  ## known vulnerabilities in the pinned packages; asks the package index, so it is no part of make test
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip --disable-pip-version-check install -qq pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off -r constraints.txt

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: photos-given data-given setup  ## all benchmarks (an hour), as tables: make bench PHOTOS=DIR DATA=DIR (photos in class folders, CIFAR-10)
	$(BIN)/python -m benchmarks.input_pipeline "$(PHOTOS)"
	$(BIN)/python -m benchmarks.small_images
	$(BIN)/python -m benchmarks.large_index
	$(BIN)/python -m benchmarks.loop_overhead
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m benchmarks.loop_overhead --library ddp
	$(BIN)/horovodrun -np 2 $(BIN)/python -m benchmarks.loop_overhead --library horovod
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m benchmarks.loop_overhead --library ddp --network wide-resnet-16-4
	$(BIN)/python -m benchmarks.gradient_probe --pairs 300
	$(BIN)/python -m benchmarks.gradient_probe --networks wide-resnet-16-4 --pairs 12 --micro-batches 1 2
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m benchmarks.gradient_probe --library ddp --pairs 300
	$(BIN)/horovodrun -np 2 $(BIN)/python -m benchmarks.gradient_probe --library horovod --pairs 300
	$(BIN)/python -m benchmarks.logging_share
	$(BIN)/python -m benchmarks.batch_change --photos "$(PHOTOS)"
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m benchmarks.votes ddp
	$(BIN)/horovodrun -np 2 $(BIN)/python -m benchmarks.votes horovod
	$(BIN)/python -m benchmarks.gradients
	$(BIN)/python -m benchmarks.compute
	$(BIN)/python -m benchmarks.optimizer_steps
	$(BIN)/python -m benchmarks.ghost_batch_norm
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.mlflow_server
	$(BIN)/python -m benchmarks.plan_startup
	$(BIN)/python -m benchmarks.fleet_startup
	$(BIN)/python -m benchmarks.fleet_prediction
	VENV="$(VENV)" benchmarks/predicted_time.sh "$(DATA)" 3 $(BIN)/torchrun --nproc-per-node 2 -m

bench-gpu: photos-given setup  ## what only a GPU can tell (ten minutes): make bench-gpu PHOTOS=DIR DATA=DIR OUT=FILE PARTS="training input"
	$(BIN)/python -m benchmarks.gpu_all "$(PHOTOS)" $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)") \
		$(if $(PARTS),--only $(PARTS))

photos-given:
	@test -n "$(PHOTOS)" || { echo "which photos? PHOTOS=DIR (class folders)"; exit 2; }

data-given:
	@test -n "$(DATA)" || { echo "where is CIFAR-10? DATA=DIR"; exit 2; }

paper: setup  ## the paper's CIFAR-10 experiments, small enough for two cores (hours): make paper DATA=DIR SEEDS=3
	@VENV="$(VENV)" SEEDS="$(SEEDS)" scripts/paper.sh small "$(DATA)" $(PARTS)

paper-gpu: setup  ## the same as the paper ran them, on a GPU: make paper-gpu DATA=DIR SEEDS=3 PARTS="schedules bolder noise"
	@VENV="$(VENV)" SEEDS="$(SEEDS)" scripts/paper.sh full "$(DATA)" $(PARTS)

clean:  ## remove the virtual environment and what tools left behind; runs/ stays
	rm -rf "$(VENV)" build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find trainer dali_pipelines scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

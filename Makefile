# Legato. `make demo` sets up and runs the main job; `make test` sets up and runs the tests.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
MODEL := models/tiny-llama
ENGINE := $(if $(shell command -v nvidia-smi),worker-gpu,worker)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help install model frameworks demo up down up-cluster test test-slow test-gpu test-slurm test-compose test-compose-vllm compose-up compose-down check lint types contracts proto proto-check bench-scale bench-scale-out bench-failover bench-kv bench-retention bench-structure bench-forecast bench-call-events bench-tool-gaps bench-policies bench-paper bench-fidelity peers bench-real bench-decisions chaos chaos-quick test-chaos clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## Make .venv with everything that this machine can run
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -q "pip==26.3"
	$(BIN)/pip install -q -c constraints.txt --group services --group bench --group dev
	$(BIN)/pip install -q -c constraints.txt --group $(ENGINE) \
	  || $(BIN)/pip install -q -c constraints.txt --extra-index-url $(TORCH_CPU_INDEX) --group $(ENGINE) \
	  || echo "vLLM does not install here: engines will be simulated"
	@# They come as CUDA builds and break `import transformers`; nothing here needs them (docs/decisions/0002).
	-@$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec 2>/dev/null
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

model: $(MODEL)/config.json ## Make the tiny random Llama that tests and the demo serve
$(MODEL)/config.json: services/worker/tiny_model.py | $(INSTALLED)
	$(BIN)/python -m services.worker.tiny_model $(MODEL)

# Agent frameworks' dependencies are none of ours; tests run their agents with that environment's Python.
FRAMEWORKS := .venv-frameworks/.installed
frameworks: $(FRAMEWORKS) ## Install the agent frameworks that tests run on Legato: a minute and 1.1 GB
$(FRAMEWORKS): pyproject.toml tests/frameworks/constraints.txt
	@test -x .venv-frameworks/bin/pip || $(PYTHON) -m venv --clear .venv-frameworks
	@rm -f $@
	.venv-frameworks/bin/pip install -q "pip==26.3" \
	  && .venv-frameworks/bin/pip install -q -c tests/frameworks/constraints.txt --group frameworks && touch $@ \
	  || echo "the agent frameworks do not install here: their tests will skip"

demo: install model ## Agent programs on a real stack, under two policies, with a report
	$(BIN)/python -m bench.demo

up: install model ## Start the one-machine stack in the background
	$(BIN)/python -m services up

down: ## Stop what `make up` or `make up-cluster` started
	$(BIN)/python -m services down

up-cluster: install model ## Real etcd and Redis, every service a process of its own
	$(BIN)/python -m services up --processes

# What compose reads too: a variable of make or of the environment, else a line of compose/.env.
compose_setting = $(or $($1),$(shell sed -n 's/^$1=//p' compose/.env 2>/dev/null))
COMPOSE_TLS = $(filter yes,$(call compose_setting,TLS))
published = $$($(COMPOSE) port $1 | sed 's/^0\.0\.0\.0:/127.0.0.1:/')
COMPOSE = docker compose -f compose/compose.yaml $(if $(COMPOSE_TLS),-f compose/tls.yaml)
compose-up: ## Everything in containers, with Prometheus and Grafana; TLS=yes encrypts (docs/compose.md)
	@compose/secrets.sh run/compose
	$(COMPOSE) build
	$(COMPOSE) up --detach --wait $(addprefix --scale ,$(call compose_setting,SCALE))
	@$(if $(COMPOSE_TLS),$(COMPOSE) exec -T gateway cat /certs/ca.pem >run/compose/ca.pem && echo "LEGATO_CA_FILE=run/compose/ca.pem")
	@echo "OPENAI_BASE_URL=http$(if $(COMPOSE_TLS),s)://$(call published,gateway 8000)/v1"
	@echo "LEGATO_ADDRESS=$(call published,gateway 8001)"
	@echo "Grafana: http://$(call published,grafana 3000), admin, password in run/compose/grafana_password"

compose-down: ## Stop what compose-up started; its volumes stay
	$(COMPOSE) down --remove-orphans

test: install model $(FRAMEWORKS) ## Run the tests
	$(BIN)/python -m pytest

test-slow: install model ## Tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: install model ## Tests that need a GPU
	$(BIN)/python -m pytest -m gpu

test-slurm: install model ## A real Slurm cluster on this machine, and jobs on it that come and go: five minutes
	$(BIN)/python -m pytest -m slurm tests/slurm

test-chaos: install model ## A minute of faults over every service of a real cluster
	$(BIN)/python -m pytest -m chaos

test-compose: install model ## The containers, really run, and the dashboard on a real Prometheus; as root, minutes
	$(BIN)/python -m pytest -m compose

test-compose-vllm: install model ## vLLM on the CPU in containers; 1 GB to download, 10 GB of disk, minutes
	$(BIN)/python -m pytest -m compose_vllm

check: lint types contracts proto-check test ## Everything that must hold before a commit

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/pyright

contracts: install
	$(BIN)/lint-imports

bench-scale: install model ## 2,000 programs on 40 simulated workers in real time
	$(BIN)/python -m bench.scale

bench-scale-out: install model ## The same load per node on 1 to 10 simulated nodes: throughput, coordination; ten minutes
	$(BIN)/python -m bench.scale_out

bench-failover: install model ## How long callers wait when a worker, the leading scheduler or a gateway dies: ten minutes
	$(BIN)/python -m bench.failover

bench-kv: install model ## What the KV pool is worth: speeds, first tokens, cached share
	$(BIN)/python -m bench.kv

bench-retention: install ## Retention policies over real traces, beside the least possible cost (needs ../shared/traces)
	$(BIN)/python -m bench.retention

bench-structure: install ## Who waited for whom and which programs are of a kind, found in real traces (needs ../shared/traces)
	$(BIN)/python -m bench.structure

bench-forecast: install ## How well calls, gaps and programs not seen before are foreseen: ten minutes (needs ../shared/traces)
	$(BIN)/python -m bench.forecast

bench-call-events: install ## Entries of the call log that a workflow service learns from in a second, on one core (needs ../shared/traces)
	$(BIN)/python -m bench.call_events

bench-tool-gaps: install ## What forecasts and prefetch in tool gaps are worth to KV pools (needs ../shared/traces)
	$(BIN)/python -m bench.tool_gaps

bench-policies: install ## Scheduling policies over simulated workloads, beside the limits: three minutes (needs ../shared/traces)
	$(BIN)/python -m bench.policies

bench-paper: install ## All policies, workloads and loads with 5 seeds, and the reproductions: an hour (needs ../shared/traces)
	$(BIN)/python -m bench.policies --whole
	$(BIN)/python -m bench.reproductions

bench-fidelity: install model ## The simulator beside two real engines, with a profile of this machine
	$(BIN)/python -m bench.fidelity

# Other routers' dependencies are none of ours, and may not fit beside them.
PEERS := .venv-peers/.installed
peers: $(PEERS) ## Install the routers that bench-real compares with
$(PEERS): pyproject.toml
	@test -x .venv-peers/bin/pip || $(PYTHON) -m venv --clear .venv-peers
	.venv-peers/bin/pip install -q "pip==26.3"
	.venv-peers/bin/pip install -q --group peers
	@touch $@

bench-real: install model $(PEERS) ## Legato beside vllm-router and sglang-router on real engines (needs ../shared/traces)
	$(BIN)/python -m bench.real

bench-decisions: install ## What a decision costs, from 100 programs on 10 workers to 10,000 on 1,000
	$(BIN)/python -m bench.decisions

chaos: install model ## Faults over every service while 200 programs run: half an hour, as root
	$(BIN)/python -m bench.chaos

chaos-quick: install model ## The same in three minutes, with fewer programs
	$(BIN)/python -m bench.chaos --seconds 120 --run-in 15 --programs 40 --pause 4 --out build/chaos/quick.json

# The generator runs apart: its protobuf is older than the services' (docs/decisions/0003).
PROTOC := PATH="$(CURDIR)/.venv-proto/bin:$$PATH" .venv-proto/bin/python -m grpc_tools.protoc
ETCD_PROTO := services/common/registry/etcd.proto
.venv-proto/.installed:
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install -q "grpcio-tools==1.71.2"
	.venv-proto/bin/pip install -q --no-deps "mypy-protobuf==5.1.0" "protobuf==6.33.5" "types-protobuf==7.35.1.20260906"
	@touch $@

proto: .venv-proto/.installed ## Regenerate the stubs
	$(PROTOC) -I protos --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet,only_async:. protos/legato/v1/*.proto
	$(PROTOC) -I . --python_out=. --mypy_out=quiet:. $(ETCD_PROTO)
	@rm -f legato/v1/call_pb2_grpc.py legato/v1/call_pb2_grpc.pyi legato/v1/kv_pb2_grpc.py legato/v1/kv_pb2_grpc.pyi

STUBS := '*_pb2.py' '*_pb2.pyi' '*_pb2_grpc.py' '*_pb2_grpc.pyi'
proto-check: install proto ## Lint the protos, refuse breaking changes, compare the stubs with the protos
	$(BIN)/buf lint protos
	@# Against where this branch left main; on main itself, against the commit before.
	@base=$$(git merge-base HEAD origin/main 2>/dev/null); head=$$(git rev-parse HEAD); \
	  if [ -z "$$base" ] || [ "$$base" = "$$head" ]; then base=$$(git rev-parse -q --verify HEAD^ || echo $$head); fi; \
	  echo "buf breaking against $$base"; $(BIN)/buf breaking protos --against ".git#ref=$$base,subdir=protos"
	git diff --exit-code -- $(STUBS)
	@test -z "$$(git ls-files --others --exclude-standard -- $(STUBS))" || (echo "stubs that git does not track"; exit 1)

clean: ## Remove what was built
	rm -rf build models run .venv .venv-proto .venv-peers .venv-frameworks

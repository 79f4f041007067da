# The two commands of a newcomer are `make run` and `make test`; each installs what it misses and says what it does.

SHELL := /bin/bash
TOOLS := . tests/tools

.PHONY: help run test bench sinks mutants lint proto
.DEFAULT_GOAL := help

help: ## Show the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 16

run: ## Build the service, push a generated stream through it, and stay up for grpcurl (DEMO_SECONDS=0: end after the demonstration).
	@$(TOOLS) && need_cargo && need_compiler && echo "building datasink (the first time takes many minutes) into $$CARGO_TARGET_DIR" && \
	exec cargo run --locked --release -- demo $(DEMO_ARGS)

test: ## Run every test; `make test ARGS="--quick"` or `make test ARGS="unit walk"` for a part.
	@tests/run $(ARGS)

bench: ## Measure what docs/benchmarks.md promises.
	@$(TOOLS) && need_cargo && need_compiler && { have wrk || need_packages wrk; } && exec cargo bench --locked --bench push $(ARGS)

lint: ## Format check, clippy, licences, and the interface definition.
	@tests/run format clippy deny proto

proto: ## Format the interface definition and lint it.
	@tests/lint/proto --fix

sinks: ## Measure Kafka and S3 beside the plain tools for the same job, on real servers.
	@$(TOOLS) && need_cargo && need_compiler && DATASINK_CACHE=$$DATASINK_CACHE exec tests/services/with kafka s3 s3-tls -- cargo bench --locked --bench sinks $(ARGS)

mutants: ## Break the product on purpose, one way after another, and see the suite notice (minutes a mutant).
	@$(TOOLS) && need_cargo && exec tests/faults/mutants/run $(ARGS)

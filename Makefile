# `make help` lists the targets. Nothing here stops what it did not start.
SHELL := /bin/bash

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS   := -X github.com/starling-im/starling/common/buildinfo.version=$(VERSION)
GO        ?= go
BIN       := bin
TOOLS     := $(CURDIR)/bin/tools
T         ?= 30s
DATA      ?= ./data

# Tools, pinned.
GOLANGCI_VERSION      := v2.15.0
BUF_VERSION           := v1.75.0
PROTOC_GEN_GO_VERSION := v1.36.11
PROTOC_GEN_GRPC       := v1.6.2

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/starling, bin/edge (pure Go), bin/logic, bin/job, bin/bench
	@mkdir -p $(BIN)
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/starling .
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/edge ./edge/cmd/edge
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./logic/cmd/logic ./job/cmd/job ./bench/cmd/bench

.PHONY: build-race
build-race: ## bin/race/…: the processes with the race detector, for bin/bench verify -bin bin/race
	@mkdir -p $(BIN)/race
	$(GO) build -race -ldflags '$(LDFLAGS)' -o $(BIN)/race/ . ./edge/cmd/edge ./logic/cmd/logic ./job/cmd/job

.PHONY: run
run: ## build bin/starling and run everything in one process on ./data (Ctrl-C stops it)
	@mkdir -p $(BIN)
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/starling .
	$(BIN)/starling -data $(DATA) -log.format=console

.PHONY: test
test: ## vet and all tests: units, contracts, simulations, end to end on the embedded default
	$(GO) vet ./...
	$(GO) test -timeout 15m ./...

.PHONY: race
race: build ## all tests with the race detector, and half a minute of bench verify on a process with it
	$(GO) test -race -timeout 25m ./...
	$(MAKE) build-race
	$(BIN)/bench verify -cluster all -bin $(BIN)/race -faults all -fault-every 8s -rate 100 -duration 30s

.PHONY: test-real
test-real: ## what needs real servers: contracts and end to end, on Redis, MariaDB and three Kafka brokers started for it
	deploy/local/test-real

.PHONY: test-planted
test-planted: ## whether bench verify finds every bug of common/planted, each in a system of its own
	$(GO) vet -tags planted ./common/planted
	$(GO) test -count=1 -tags planted ./common/planted
	set -o pipefail; STARLING_TEST_PLANTED=1 $(GO) test -count=1 -v -timeout 15m -parallel 6 -run '^TestPlanted$$' ./deploy/e2e | grep -E '^(ok|FAIL|panic)|^ *(--- |[a-z_]+_test\.go:[0-9]+: )'

.PHONY: e2e
e2e: ## the end-to-end tests alone, not cached
	$(GO) test -count=1 -timeout 15m ./deploy/e2e/...

.PHONY: arch
arch: ## the rules of the tree: imports, mains, docs
	$(GO) test -count=1 ./common/archtest/...

.PHONY: lint
lint: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) ## golangci-lint, pinned
	$< run ./...

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) ## format all Go files
	$< fmt ./...

.PHONY: gen
gen: tools-gen gen-config ## generate protobuf code and configs/
	PATH="$(TOOLS):$$PATH" $(TOOLS)/buf generate

.PHONY: gen-config
gen-config:
	STARLING_TEST_UPDATE=1 $(GO) test -count=1 -run '^TestConfigFiles$$' ./internal/server ./edge/cmd/edge ./logic/cmd/logic ./job/cmd/job

.PHONY: check-gen
check-gen: gen ## fail if generated files are stale
	@git diff --exit-code -- '*.pb.go' configs || { echo "generated files are stale: run make gen and commit"; exit 1; }

.PHONY: fuzz
fuzz: ## every fuzz target for T (default 30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(T) $$pkg; \
	  done; \
	done

.PHONY: bench
bench: ## Go benchmarks, and bin/bench for whole systems (bin/bench -h)
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: verify
verify: ## what CI runs
	bash .ci/run

.PHONY: clean
clean: ## remove bin/ (data stay)
	rm -rf $(BIN)

$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(TOOLS)/golangci-lint $@

.PHONY: tools-gen
tools-gen: $(TOOLS)/.gen-$(BUF_VERSION)-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GRPC)
$(TOOLS)/.gen-$(BUF_VERSION)-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GRPC):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	GOBIN=$(TOOLS) $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	GOBIN=$(TOOLS) $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GRPC)
	@touch $@

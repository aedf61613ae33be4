# `make` lists the targets.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 60s

# The tools of `make lint`. They are built once into .tools, with their version in the name.
GOLANGCI_LINT := .tools/golangci-lint-v2.15.0
GOFUMPT       := .tools/gofumpt-v0.12.0
GOVULNCHECK   := .tools/govulncheck-v1.9.0

# The tools of `make release`.
GORELEASER := .tools/goreleaser-v2.15.1
CYCLONEDX  := .tools/cyclonedx-gomod-v1.10.0

# The other modules. They are separate to keep their dependencies out of the main go.mod.
MODULES := $(patsubst %/go.mod,%,$(wildcard integration/go.mod bench/go.mod))

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the static binary bin/sheaf, and the example store bin/store
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X github.com/sheafapi/sheaf.Version=$(VERSION)' -o bin/sheaf ./cmd/sheaf
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/store ./examples/store/cmd/store

.PHONY: demo
demo: ## Watch a batch of 60 requests, a batch of dependent requests, and one that survives kill -9
	@$(GO) run ./examples/demo

# The race detector is very slow in SQLite, which is translated from C, so it checks only the rest.
RACE := -race -gcflags=modernc.org/sqlite/lib=-race=false -gcflags=modernc.org/libc=-race=false

# The tests of the other modules mostly wait, so they run at the same time. They run without the race
# detector, because it would check only the code of the tests themselves. Their results are never
# cached, because Go doesn't know that they depend on a binary of this module. The main module comes
# last, so that its result is at the end of the output.
.PHONY: test
test: ## Run all tests except make chaos, clients and fuzz: go test ./... with the race detector, and those that need PostgreSQL, browsers and other programs
	@bash .ci/need race postgres servers clients browser prometheus spreadsheet
	$(GO) vet -tags postgres ./...
	@jobs=; for module in $(MODULES); do \
		(cd $$module && $(GO) vet ./... && $(GO) test -count=1 -timeout 20m ./...) & jobs="$$jobs $$!"; \
	done; \
	code=0; for job in $$jobs; do wait $$job || code=1; done; exit $$code
	$(GO) test -run Allocs -count=1 ./internal/... # the race detector itself allocates
	CGO_ENABLED=1 $(GO) test $(RACE) -tags postgres -timeout 20m ./...

# Sheaf must build on all of these platforms. All but the last are released.
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: platforms
platforms: ## Build and vet for Linux, macOS and Windows on amd64 and arm64
	@set -e; for platform in $(PLATFORMS); do \
		echo "== $$platform"; \
		export CGO_ENABLED=0 GOOS="$${platform%/*}" GOARCH="$${platform#*/}"; \
		$(GO) build ./...; $(GO) vet -tags postgres ./...; \
	done

GENERATOR := .tools/openapi-generator-7.26.0

.PHONY: clients
clients: ## Generate, compile and run clients in six languages; generate one for C#
	@bash .ci/need clients languages
	python3 -m venv $(GENERATOR)
	$(GENERATOR)/bin/pip install --quiet --disable-pip-version-check openapi-generator-cli==$(lastword $(subst -, ,$(GENERATOR)))
	PATH='$(abspath $(GENERATOR))/bin':"$$PATH" $(GO) -C integration test -tags clients -count=1 -v -timeout 40m -run OpenAPIGenerator .

.PHONY: screenshots
screenshots: ## Take the screenshots of the dashboard in docs/screenshots
	@bash .ci/need browser clients
	$(GO) -C integration test -count=1 -run 'TestDashboard/sqlite' . -screenshots '$(abspath docs/screenshots)'

# FAULTS is how often each fault strikes in make chaos. KILLS is how often TestKill9UnderLoad and
# TestTakeoverKilled kill a process.
FAULTS ?= 20
KILLS  ?= 160
# The number of random histories for each model of a database, and for sheaf submit.
CHECKS ?= 400
CHAOS  ?= Takeover|Postgres|Clocks|ManyNodes|Neighbor|Kill9UnderLoad|ThroughAnotherNode|IdleNode|Memory|UpstreamOutages

.PHONY: chaos
chaos: ## Inject each fault FAULTS times under load, attack as a hostile tenant, and fail if recovery takes longer than promised
	@bash .ci/need postgres servers
	$(GO) test -tags postgres -count=1 -timeout 3h -run 'Model|JournalCrash|SmallJournal|AuthorityEnds|Deaths' \
		./internal/storage/sqlite ./internal/storage/postgres ./internal/submit -rapid.checks $(CHECKS)
	$(GO) -C integration test -count=1 -v -timeout 3h -run '$(CHAOS)' . -faults $(FAULTS) -kills $(KILLS)

.PHONY: lint
lint: $(GOFUMPT) $(GOLANGCI_LINT) $(GOVULNCHECK) ## Check the formatting, run the linters, check for known vulnerabilities
	@out=$$($(GOFUMPT) -l .); [ -z "$$out" ] || { printf '%s\n' "gofumpt would change these files; run 'make format':" "$$out"; exit 1; }
	$(GOLANGCI_LINT) run ./...
	@set -e; for module in $(MODULES); do \
		echo "== $$module"; \
		(cd $$module && ../$(GOLANGCI_LINT) run --config ../.golangci.yml --path-prefix $$module ./...); \
	done
	@$(VULNERABILITIES)

# govulncheck exits with 3 if it finds a vulnerability. If its database can't be reached, make lint
# only reports that, so that it also works without a network.
define VULNERABILITIES
out=$$($(GOVULNCHECK) ./... 2>&1); code=$$?; \
if [ $$code -ne 0 ] && [ $$code -ne 3 ] && printf '%s' "$$out" | grep -q 'vuln\.go\.dev'; then \
	echo "NOT CHECKED for known vulnerabilities: the database at vuln.go.dev can't be reached."; \
else \
	printf '%s\n' "$$out"; exit $$code; \
fi
endef

.PHONY: format
format: $(GOFUMPT) ## Format the code
	$(GOFUMPT) -w .

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (default 60s)
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n 1 dirname | sort -u | while read -r dir; do \
		for target in $$(cat "$$dir"/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do \
			echo "== $$dir $$target"; \
			$(GO) -C "$$dir" test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) .; \
		done; \
	done

# The database to measure with: sqlite or postgres.
DATABASE ?= sqlite

.PHONY: bench
bench: ## Run the benchmarks; with DATABASE=postgres, on PostgreSQL
	cd bench && $(GO) run . -database $(DATABASE)

.PHONY: bench-check
bench-check: ## Before a release: fail if a ratio is more than 15% below bench/baseline.json
	cd bench && $(GO) run . -rounds 7 -only parallel,stores,sequential -baseline baseline.json
	cd bench && $(GO) run . -database postgres -rounds 7 -only parallel,stores,sequential -baseline baseline.json

# By default, nothing is signed or published. The release workflow clears these flags. Builds are
# reproducible: the same commit produces the same bytes.
RELEASE_FLAGS ?= --snapshot --skip=publish,sign

.PHONY: release
release: $(GORELEASER) $(CYCLONEDX) ## Build dist: archives for every released platform, deb and rpm, checksums, SBOMs
	ln -sf '$(abspath $(CYCLONEDX))' .tools/cyclonedx-gomod
	PATH='$(abspath .tools)':"$$PATH" $(GORELEASER) release --clean $(RELEASE_FLAGS)

.PHONY: image
image: ## Build the container image sheaf (needs Docker)
	docker build -f deploy/Dockerfile --build-arg VERSION=$(VERSION) -t sheaf:$(VERSION) .

.PHONY: docs
docs: ## Build the documentation site in dist/docs (needs Python)
	python3 -m venv .tools/mkdocs-1.6.1
	.tools/mkdocs-1.6.1/bin/pip install --quiet --disable-pip-version-check mkdocs==1.6.1
	.tools/mkdocs-1.6.1/bin/mkdocs build --quiet --strict

.PHONY: clean
clean: ## Remove everything that make has built, including the tools
	rm -rf bin dist .tools

define INSTALL_TOOL
@echo "building $(@F); this can take some minutes, but only the first time"
@mkdir -p .tools
GOBIN='$(abspath .tools)' $(GO) install $(1)@$(lastword $(subst -, ,$(@F)))
@mv '.tools/$(notdir $(1))' '$@'
endef

$(GOLANGCI_LINT):
	$(call INSTALL_TOOL,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

$(GOFUMPT):
	$(call INSTALL_TOOL,mvdan.cc/gofumpt)

$(GORELEASER):
	$(call INSTALL_TOOL,github.com/goreleaser/goreleaser/v2)

$(CYCLONEDX):
	$(call INSTALL_TOOL,github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod)

$(GOVULNCHECK):
	$(call INSTALL_TOOL,golang.org/x/vuln/cmd/govulncheck)

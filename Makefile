# Sheaf. `make` lists what there is to do.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 60s

# The tools of `make lint`. They are built once into .tools, under their version's name.
GOLANGCI_LINT := .tools/golangci-lint-v2.15.0
GOFUMPT       := .tools/gofumpt-v0.12.0
GOVULNCHECK   := .tools/govulncheck-v1.9.0

# Those of `make release`.
GORELEASER := .tools/goreleaser-v2.15.1
CYCLONEDX  := .tools/cyclonedx-gomod-v1.10.0

# Modules beside the main one, so that what they need stays out of its go.mod.
MODULES := $(patsubst %/go.mod,%,$(wildcard integration/go.mod bench/go.mod))

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/sheaf, one static binary, and the example store bin/store
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X github.com/sheafapi/sheaf.Version=$(VERSION)' -o bin/sheaf ./cmd/sheaf
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/store ./examples/store/cmd/store

.PHONY: demo
demo: ## See it work: a batch of 60 requests, one of requests that need each other, a kill -9 midway through a third
	@$(GO) run ./examples/demo

# The main module comes last: its result is what a reader, or CI, sees at the end. The
# others are never cached: Go does not see that they test a binary of this module.
.PHONY: test
test: race-ready postgres-ready clients-ready browser-ready spreadsheet-ready ## Run every test of every module under the race detector
	$(GO) vet ./...
	@set -e; for module in $(MODULES); do \
		echo "== $$module"; \
		(cd $$module && $(GO) vet ./... && CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 20m ./...); \
	done
	$(GO) test -run Allocs -count=1 ./internal/... # the race detector allocates itself
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

.PHONY: test-quick
test-quick: ## Run the main module's tests without the race detector
	$(GO) test ./...

# The race detector needs a C compiler and the C library's headers.
CC_WORKS := echo '\#include <stdlib.h>' | $$($(GO) env CC) -E -x c - >/dev/null 2>&1

.PHONY: race-ready
race-ready:
	@$(CC_WORKS) && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "The race detector needs a C compiler: installing gcc and libc6-dev."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev; \
	fi; \
	$(CC_WORKS) || { echo "The race detector needs a C compiler and the C library's headers, and $$($(GO) env CC) does not work here." \
		"Install them (Debian: gcc libc6-dev; Fedora: gcc glibc-devel; Alpine: gcc musl-dev; macOS: xcode-select --install)," \
		"or run 'make test-quick', which does without."; exit 1; } >&2

# The tests need PostgreSQL's programs, pgbouncer for what a pooler does, and Redis for
# what bench compares with. Debian's packages would start servers of their own
# (createcluster.d and RUNLEVEL prevent it).
.PHONY: postgres-ready
postgres-ready:
	@have() { PATH="$$PATH:/usr/sbin:$$(printf '%s:' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /usr/libexec/postgresql*)" \
		command -v "$$1" >/dev/null; }; \
	ready() { { [ -n "$$SHEAF_TEST_POSTGRES" ] || { have postgres && have initdb; }; } && have pgbouncer && have redis-server && have nginx && have curl; }; \
	ready && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "The tests need PostgreSQL, pgbouncer, Redis, nginx and curl: installing what is missing."; \
		if ! [ -e /etc/postgresql-common/createcluster.conf ]; then \
			mkdir -p /etc/postgresql-common/createcluster.d; \
			echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/no-main.conf; \
		fi; \
		apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql pgbouncer redis-server nginx-light curl ca-certificates; \
	fi; \
	ready || { echo "The tests need the programs of PostgreSQL (14 or newer), pgbouncer, Redis, nginx and curl. Install them" \
		"(Debian: postgresql pgbouncer redis-server nginx-light curl; Fedora: postgresql-server pgbouncer redis nginx curl; macOS: brew install postgresql pgbouncer redis nginx)." \
		"With SHEAF_TEST_POSTGRES=postgres://… set, most tests use that server, and only pgbouncer and Redis have to be here."; exit 1; } >&2

# Clients are generated for TypeScript and Python, and run.
.PHONY: clients-ready
clients-ready:
	@ready() { node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' && npm --version && \
		python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'; } >/dev/null 2>&1; \
	ready && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "The tests need Node.js with npm, and Python with venv: installing what is missing."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm python3 python3-venv; \
	fi; \
	ready || { echo "The tests need Node.js (18 or newer) with npm, and Python (3.11 or newer) with venv. Install them" \
		"(Debian: nodejs npm python3-venv; Fedora: nodejs npm python3; macOS: brew install node python)."; exit 1; } >&2

# The dashboard is tested in a real Chromium, and the alert rules by promtool.
.PHONY: browser-ready
browser-ready:
	@ready() { { command -v chromium || command -v chromium-browser || command -v google-chrome || [ -x '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome' ]; } && \
		command -v promtool; } >/dev/null 2>&1; \
	ready && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "The tests need Chromium, and promtool of Prometheus: installing what is missing."; \
		apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium prometheus; \
	fi; \
	ready || { echo "The tests need Chromium, and promtool of Prometheus. Install them" \
		"(Debian: chromium prometheus; Fedora: chromium golang-github-prometheus; macOS: brew install --cask google-chrome && brew install prometheus)."; exit 1; } >&2

# What sheaf submit makes of tables is tested with a real spreadsheet.
.PHONY: spreadsheet-ready
spreadsheet-ready:
	@ready() { command -v soffice >/dev/null; }; \
	ready && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "The tests need LibreOffice Calc: installing it."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libreoffice-calc-nogui; \
	fi; \
	ready || { echo "The tests need LibreOffice Calc, as the command soffice. Install it" \
		"(Debian: libreoffice-calc-nogui; Fedora: libreoffice-calc; macOS: brew install --cask libreoffice)."; exit 1; } >&2

GENERATOR := .tools/openapi-generator-7.26.0

.PHONY: clients
clients: clients-ready languages-ready ## Generate, compile and run clients in six languages; generate one for C#
	python3 -m venv $(GENERATOR)
	$(GENERATOR)/bin/pip install --quiet --disable-pip-version-check openapi-generator-cli==$(lastword $(subst -, ,$(GENERATOR)))
	PATH='$(abspath $(GENERATOR))/bin':"$$PATH" $(GO) -C integration test -tags clients -count=1 -v -timeout 40m -run OpenAPIGenerator .

# The compilers and libraries of those clients. Maven, cargo and npm fetch the rest.
.PHONY: languages-ready
languages-ready:
	@ready() { javac --release 17 --version && mvn --version && ruby -e 'require "typhoeus"' && \
		php -r 'require "GuzzleHttp/autoload.php"; exit(extension_loaded("curl") && extension_loaded("mbstring") ? 0 : 1);' && \
		cargo --version | awk '{ split($$2, v, "."); exit !(v[1] > 1 || v[2] >= 89) }'; } >/dev/null 2>&1; \
	ready && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "The clients need Java, Maven, Ruby, PHP and Rust: installing what is missing."; \
		cargo=; command -v cargo >/dev/null || cargo=cargo; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			default-jdk-headless maven ruby ruby-typhoeus php-cli php-curl php-mbstring php-guzzlehttp-guzzle gcc libc6-dev $$cargo; \
	fi; \
	ready || { echo "The clients need Java (17 or newer) with Maven, Ruby with typhoeus, PHP with curl, mbstring and Guzzle, and Rust (1.89 or newer). Install them" \
		"(Debian: default-jdk-headless maven ruby-typhoeus php-cli php-curl php-mbstring php-guzzlehttp-guzzle, and Rust with rustup)."; exit 1; } >&2

.PHONY: screenshots
screenshots: browser-ready clients-ready postgres-ready ## Show the dashboard's views in docs/screenshots
	$(GO) -C integration test -count=1 -run 'TestDashboard/sqlite' . -screenshots '$(abspath docs/screenshots)'

# How often each fault strikes in make chaos, and how often nodes are killed besides.
FAULTS ?= 20
KILLS  ?= 160
CHAOS  ?= Takeover|Postgres|Clocks|ManyNodes|Neighbor

.PHONY: chaos
chaos: postgres-ready ## Break fleets of nodes and their PostgreSQL, FAULTS times each, and let a hostile tenant use up each resource; ends with tables
	cd integration && $(GO) test -count=1 -v -timeout 3h -run '$(CHAOS)' . -faults $(FAULTS) -kills $(KILLS)

.PHONY: lint
lint: $(GOFUMPT) $(GOLANGCI_LINT) $(GOVULNCHECK) ## Check the format, run the linters, look for known vulnerabilities
	@out=$$($(GOFUMPT) -l .); [ -z "$$out" ] || { printf '%s\n' "gofumpt would change these files; run 'make format':" "$$out"; exit 1; }
	$(GOLANGCI_LINT) run ./...
	@set -e; for module in $(MODULES); do \
		echo "== $$module"; \
		(cd $$module && ../$(GOLANGCI_LINT) run --config ../.golangci.yml --path-prefix $$module ./...); \
	done
	@$(VULNERABILITIES)

# govulncheck ends with 3 when it found something. A database that can't be reached
# is told and is no failure: work without a network goes on.
define VULNERABILITIES
out=$$($(GOVULNCHECK) ./... 2>&1); code=$$?; \
if [ $$code -ne 0 ] && [ $$code -ne 3 ] && printf '%s' "$$out" | grep -q 'vuln\.go\.dev'; then \
	echo "NOT CHECKED for known vulnerabilities: the database at vuln.go.dev can't be reached from here."; \
else \
	printf '%s\n' "$$out"; exit $$code; \
fi
endef

.PHONY: format
format: $(GOFUMPT) ## Format the code
	$(GOFUMPT) -w .

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (60s) each
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n 1 dirname | sort -u | while read -r dir; do \
		for target in $$(cat "$$dir"/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do \
			echo "== $$dir $$target"; \
			$(GO) -C "$$dir" test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) .; \
		done; \
	done

# What the service keeps batches in while it is measured: sqlite or postgres.
DATABASE ?= sqlite

.PHONY: bench
bench: ## Measure Sheaf beside a plain client; DATABASE=postgres: on PostgreSQL
	cd bench && $(GO) run . -database $(DATABASE)

.PHONY: bench-check
bench-check: ## Before a release: fail if a ratio lost more than 15% against bench/baseline.json
	cd bench && $(GO) run . -rounds 7 -only parallel,stores,sequential -baseline baseline.json
	cd bench && $(GO) run . -database postgres -rounds 7 -only parallel,stores,sequential -baseline baseline.json

# Nothing is published: what is in dist is for looking at. A release is the same with a tag
# checked out and without --snapshot. The same commit makes the same bytes.
.PHONY: release
release: $(GORELEASER) $(CYCLONEDX) ## Make dist: archives, deb and rpm for every platform, checksums, an SBOM each
	ln -sf '$(abspath $(CYCLONEDX))' .tools/cyclonedx-gomod
	PATH='$(abspath .tools)':"$$PATH" $(GORELEASER) release --snapshot --clean --skip=publish,sign

.PHONY: image
image: ## Build the container image sheaf (needs Docker)
	docker build -f deploy/Dockerfile --build-arg VERSION=$(VERSION) -t sheaf:$(VERSION) .

.PHONY: docs
docs: ## Make the documentation a site in dist/docs (needs Python)
	python3 -m venv .tools/mkdocs-1.6.1
	.tools/mkdocs-1.6.1/bin/pip install --quiet --disable-pip-version-check mkdocs==1.6.1
	.tools/mkdocs-1.6.1/bin/mkdocs build --quiet --strict

.PHONY: clean
clean: ## Remove what was built, the tools included
	rm -rf bin dist .tools

define INSTALL_TOOL
@echo "building $(@F), once; this can take some minutes"
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

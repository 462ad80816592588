# The linters are a module of their own, so that what they need stays out of
# Lethe's go.mod.
tool := go tool -modfile=tools/go.mod

# The tests of deploy are one too. Their linters are the same.
deploy := go -C deploy/validate

.PHONY: help
help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the five programs into bin/
	go build -o bin/ ./cmd/...

.PHONY: run
run: ## Start Lethe with servers and rooms to try it on
	@scripts/servers
	@$(MAKE) --no-print-directory build
	@exec bin/lethe dev

.PHONY: test
test: ## Lint, then run all tests with the race detector, and fuzz tokens and filters for some seconds
	@scripts/servers
	@$(MAKE) --no-print-directory lint build
	LETHE_TEST_PROGRAMS='$(CURDIR)/bin' go test -vet=off -race -timeout 15m -parallel 6 ./...
	go test -run '^$$' -fuzz FuzzParsePageToken -fuzztime 50000x ./internal/matrix
	go test -run '^$$' -fuzz FuzzParseFilter -fuzztime 20000x ./internal/messages
	$(deploy) test ./...

.PHONY: test-fast
test-fast: ## Run all tests, without the race detector
	@scripts/servers
	@$(MAKE) --no-print-directory build
	LETHE_TEST_PROGRAMS='$(CURDIR)/bin' go test -timeout 15m -parallel 6 ./...
	$(deploy) test ./...

.PHONY: test-kills
test-kills: ## Kill workers at random points of purges and deletes, again and again
	@scripts/servers
	LETHE_TEST_KILL_RUNS=10 go test -timeout 30m -parallel 6 -run ThroughKills ./internal/e2e

.PHONY: test-long
test-long: ## Hold purges, pages and shutdowns against their models, ten times as often as make test
	@scripts/servers
	LETHE_TEST_CHECKS=300 go test -race -timeout 60m -parallel 6 ./internal/store ./internal/messages ./internal/shutdown

.PHONY: docs
docs: ## Write docs/configuration.md anew from the comments of the settings
	go test -count 1 -run TestReference ./internal/config -update

.PHONY: fuzz
fuzz: ## Ask for pages with made-up queries for a minute, and look for an answer that is none
	@scripts/servers
	go test -run '^$$' -fuzz FuzzMessages -fuzztime 1m ./internal/httpapi

.PHONY: lint
lint: ## Check format, go.mod and what static analysis finds
	@unformatted=$$($(tool) gofumpt -l .) && if [ -n "$$unformatted" ]; then echo "make fmt would change:" $$unformatted; exit 1; fi
	go mod tidy -diff
	go vet ./...
	$(tool) staticcheck ./...
	$(tool) errcheck -ignoretests -exclude tools/errcheck.txt ./...
	$(tool) go-errorlint ./...
	$(deploy) mod tidy -diff
	$(deploy) vet ./...

.PHONY: fmt
fmt: ## Format all Go files
	$(tool) gofumpt -w .

.PHONY: tidy
tidy: ## Bring each go.mod up to what is used
	go mod tidy
	go -C tools mod tidy
	$(deploy) mod tidy

.PHONY: bench
bench: ## Measure, and write bin/bench.json too; with DUMP=file or DATABASE=url on the tables of a real Synapse
	@scripts/servers
	@$(MAKE) --no-print-directory build
	@exec bin/lethe bench -json bin/bench.json $(if $(DUMP),-dump $(DUMP)) $(if $(DATABASE),-database '$(DATABASE)') $(BENCH)

.PHONY: vuln
vuln: ## Look for known vulnerabilities in what is reached; needs vuln.go.dev, or VULNDB=url of a copy
	$(tool) govulncheck $(if $(VULNDB),-db '$(VULNDB)') ./...

.PHONY: sbom
sbom: ## Write what Lethe is made of, with licences, to bin/sbom.json (CycloneDX)
	@mkdir -p bin
	$(tool) cyclonedx-gomod mod -json -licenses -output bin/sbom.json

.PHONY: clean
clean: ## Remove what was built, and the data of make run
	rm -rf bin .lethe

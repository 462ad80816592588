# The linters are a separate module, so that their dependencies stay out of
# Lethe's go.mod.
tool := go tool -modfile=tools/go.mod

# So are the tests of deploy. They use the same linters. Their results are not kept,
# because go test does not notice changes of files outside a module.
deploy := go -C deploy/validate

# And so is what draws the picture of make growth, with a library for plots.
growth := go -C test/growth

# And so is what drives a browser, whose library takes longer to compile than Lethe. Only
# the target console-test uses it.
browser := go -C test/console

# What makes releases is a module, and so are Helm and actionlint, because they need
# different versions of the same modules. The first two are large. Only the targets
# release-… and chart use these.
goreleaser := go tool -modfile=tools/release/go.mod goreleaser
actionlint := go tool -modfile=tools/actionlint/go.mod actionlint
helm := go tool -modfile=tools/chart/go.mod helm

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What the programs say with --version. A build without a checkout can set them.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
stamp := -ldflags '-X lethe/internal/version.version=$(VERSION) -X lethe/internal/version.revision=$(REVISION)'

.PHONY: build
build: ## Build the five programs into bin/
	go build $(stamp) -o bin/ ./cmd/...

.PHONY: install
install: ## Install lethe and asynqmon, and links for the processes, into DESTDIR/usr/local
	install -d '$(DESTDIR)/usr/local/lib/lethe' '$(DESTDIR)/usr/local/bin'
	install bin/lethe bin/asynqmon '$(DESTDIR)/usr/local/lib/lethe/'
	for name in api worker scheduler; do ln -sf lethe '$(DESTDIR)/usr/local/lib/lethe/'$$name || exit 1; done
	ln -sf ../lib/lethe/lethe '$(DESTDIR)/usr/local/bin/lethe'

# The first build of a clean clone compiles all that Lethe imports. To take less than a minute
# of two processors it leaves out what a trial does not need: C, as releases do, what
# debuggers read, and speed of go-redis and grpc. With its inlined functions go-redis makes
# the compiler write a thousand methods into each package that imports it. The compiler
# also collects garbage less often.
quick := -gcflags='all=-dwarf=false' -gcflags='github.com/redis/go-redis/v9/...=-N -l -dwarf=false' \
	-gcflags='google.golang.org/...=-N -l -dwarf=false'

.PHONY: run
run: ## Start Lethe with its own servers and demo rooms
	@scripts/servers
	CGO_ENABLED=0 GOGC=400 go build $(quick) $(stamp) -o bin/ ./cmd/lethe
	@exec bin/lethe dev

# On a new machine make test compiles for longer than it tests. So vet and the linters use
# the packages as the tests do, with the race detector, and go-redis is compiled without
# inlined functions, as for make run.
tested := -race -gcflags=github.com/redis/go-redis/v9/...=-l

# A program with the race detector sleeps for a second before it exits, so that the
# goroutines that are left may race. The tests leave none.
.PHONY: test
test: ## Lint, and run all tests with the race detector
	@scripts/servers
	@GOGC=400 $(MAKE) --no-print-directory lint build flags='$(tested)'
	GORACE=atexit_sleep_ms=0 LETHE_TEST_PROGRAMS='$(CURDIR)/bin' go test -vet=off $(tested) -p 3 -timeout 15m ./...
	go test ./test/lockmodel
	$(deploy) test -count 1 ./...
	$(growth) test ./...

.PHONY: test-fast
test-fast: ## Run all tests, without the race detector
	@scripts/servers
	@$(MAKE) --no-print-directory build
	LETHE_TEST_PROGRAMS='$(CURDIR)/bin' go test -timeout 15m ./...
	$(deploy) test -count 1 ./...
	$(growth) test ./...

# axe-core comes from npm, by the lock file that is beside the tests. Without npm they run, too,
# and check no accessibility.
.PHONY: console-test
console-test: ## Drive the console in Chromium; each page is checked by axe-core, if npm is installed
	@scripts/servers
	@$(MAKE) --no-print-directory build
	@if command -v npm >/dev/null; then cd test/console && npm ci --ignore-scripts --no-progress; else echo "npm is not installed: axe-core does not check the pages"; fi
	$(browser) vet ./...
	LETHE_TEST_PROGRAMS='$(CURDIR)/bin' LETHE_TEST_PICTURES='$(PICTURES)' $(browser) test -count 1 -timeout 10m ./...

# A sample for .ci/run. It needs no npm.
.PHONY: console-sample
console-sample: ## Run the tests of the console in Chromium that go from signing in to signing out
	@scripts/servers
	@if command -v chromium >/dev/null; then \
		set -x; go build $(stamp) -o bin/ ./cmd/lethe && LETHE_TEST_PROGRAMS='$(CURDIR)/bin' $(browser) test -count 1 -timeout 5m -run 'InABrowser|AndAnotherSite' ./...; \
	else echo "chromium is not installed: the console is not driven in a browser"; fi

.PHONY: screenshots
screenshots: ## Take pictures of every page of the console, in both themes and two widths, into bin/screenshots and docs/pictures
	@mkdir -p bin/screenshots
	@$(MAKE) --no-print-directory console-test PICTURES='$(CURDIR)/bin/screenshots'
	cp bin/screenshots/demo-overview-1280-light.png docs/pictures/console-overview.png
	cp bin/screenshots/demo-job-complete-1280-dark.png docs/pictures/console-job.png
	cp bin/screenshots/demo-plan-390-light.png docs/pictures/console-plan.png

.PHONY: test-kills
test-kills: ## Kill workers at random points of purges and deletes, many times
	@scripts/servers
	LETHE_TEST_KILL_RUNS=10 go test -timeout 30m -run ThroughKills ./internal/e2e

.PHONY: test-verbs
test-verbs: ## Cancel, pause, hold, move and retry 20 jobs at random for a minute, while workers are killed
	@scripts/servers
	LETHE_TEST_VERBS_TIME=60s go test -count 1 -timeout 30m -run TestVerbsAtRandom ./internal/e2e

.PHONY: chaos
chaos: ## Let FAULTS faults (40) meet a fleet at work, by the plan of SEED (1); the report is bin/chaos-SEED.json
	@scripts/servers
	@$(MAKE) --no-print-directory build
	LETHE_TEST_PROGRAMS='$(CURDIR)/bin' LETHE_CHAOS_SEED='$(or $(SEED),1)' LETHE_CHAOS_FAULTS='$(or $(FAULTS),40)' \
	LETHE_CHAOS_REPORT='$(CURDIR)/bin' go test -count 1 -timeout 20m -v -run 'TestChaos$$' ./internal/e2e/chaos

.PHONY: test-long
test-long: ## Compare purges, pages and shutdowns with their models, 25 times as often as make test
	@scripts/servers
	LETHE_TEST_CHECKS=300 go test -race -timeout 60m ./internal/store/... ./internal/messages ./internal/shutdown

.PHONY: test-corruption
test-corruption: ## Purge and delete rooms with corrupt indexes, 200 times
	@scripts/servers
	LETHE_TEST_CORRUPTIONS=200 go test -count 1 -timeout 30m -run TestCorruptIndexes ./internal/store/purge

.PHONY: strangers
strangers: ## Run the tests of what uses the database beside functions and operators of another role that fit better
	@scripts/servers
	go test -count 1 -timeout 30m -tags strangers ./internal/store/... ./internal/plan ./internal/doctor \
		./internal/operator ./internal/messages ./internal/tasks ./internal/shutdown ./internal/sweep ./internal/schedule ./internal/httpapi

.PHONY: postgres-versions
postgres-versions: ## Run the tests of what uses the database on VERSIONS of PostgreSQL, 13 14 16 17 18 by default, from the npm registry
	@scripts/servers
	scripts/postgres-versions $(or $(VERSIONS),13 14 16 17 18)

.PHONY: model
model: ## Look at every state of the larger models of the room's lock
	LETHE_TEST_MODEL=1 go test -count 1 -timeout 60m -v -run TestEveryState ./test/lockmodel

.PHONY: mutants
mutants: ## Change the program in ways that break its promises, and run the tests that must fail; LETHE_MUTANTS chooses by name
	@scripts/servers
	go test -count 1 -timeout 3h -tags mutants -run TestMutantsAreKilled -v ./test/mutants

.PHONY: upgrade-fixture
upgrade-fixture: ## Record what the programs in PROGRAMS, those of the last release, leave for TestUpgrade
	@scripts/servers
	LETHE_RECORD_UPGRADE=1 LETHE_TEST_PROGRAMS='$(abspath $(PROGRAMS))' go test -count 1 -run TestRecordUpgrade ./internal/e2e

.PHONY: docs
docs: ## Write what is made from the code: docs/configuration.md, config.example.yaml, cli.md and openapi.json
	go test -count 1 -run TestReference ./internal/config ./internal/cli -update
	go test -count 1 -run TestDescription ./internal/operator -update

.PHONY: fuzz
fuzz: ## Fuzz tokens, filters and the queries of /messages for a minute each
	@scripts/servers
	go test -run '^$$' -fuzz FuzzParsePageToken -fuzztime 1m ./internal/matrix
	go test -run '^$$' -fuzz FuzzParseFilter -fuzztime 1m ./internal/messages
	go test -run '^$$' -fuzz FuzzMessages -fuzztime 1m ./internal/httpapi

.PHONY: fuzz-reads
fuzz-reads: ## Compare random reads of LETHE with those of HOMESERVER, both on DATABASE; STOP and START also compare after purges
	LETHE_FUZZ_DATABASE='$(DATABASE)' LETHE_FUZZ_LETHE='$(LETHE)' LETHE_FUZZ_HOMESERVER='$(HOMESERVER)' \
	LETHE_FUZZ_STOP='$(STOP)' LETHE_FUZZ_START='$(START)' LETHE_FUZZ_QUERIES='$(QUERIES)' LETHE_FUZZ_SEED='$(SEED)' \
	go test -count 1 -timeout 60m -v -run TestReadsAreTheHomeservers ./internal/e2e

.PHONY: test-beside
test-beside: ## Send by a running HOMESERVER and read by Lethe, both on DATABASE, while Lethe purges
	@scripts/servers
	LETHE_BESIDE_DATABASE='$(DATABASE)' LETHE_BESIDE_HOMESERVER='$(HOMESERVER)' \
	go test -count 1 -timeout 15m -v -run TestPagesBesideAHomeserver ./internal/e2e

# With flags, the linters see the packages that a build with these flags has compiled.
.PHONY: lint
lint: ## Check format and go.mod, and run static analysis
	@unformatted=$$($(tool) gofumpt -l .) && if [ -n "$$unformatted" ]; then echo "make fmt would change:" $$unformatted; exit 1; fi
	go mod tidy -diff
	GOFLAGS='$(flags)' go vet ./...
	GOFLAGS='$(flags)' $$($(tool) -n staticcheck) ./...
	GOFLAGS='$(flags)' $$($(tool) -n errcheck) -ignoretests -exclude tools/errcheck.txt ./...
	GOFLAGS='$(flags)' $$($(tool) -n go-errorlint) ./...
	$(deploy) mod tidy -diff
	$(deploy) vet ./...
	$(growth) mod tidy -diff
	$(growth) vet ./...
	$(browser) mod tidy -diff

.PHONY: fmt
fmt: ## Format all Go files
	$(tool) gofumpt -w .

.PHONY: tidy
tidy: ## Tidy each go.mod
	go mod tidy
	go -C tools mod tidy
	go -C tools/actionlint mod tidy
	go -C tools/chart mod tidy
	$(deploy) mod tidy
	$(growth) mod tidy
	go -C test/traefik mod tidy

.PHONY: bench-plan
bench-plan: ## Time plans of jobs of a room with EVENTS events, a million by default
	@scripts/servers
	LETHE_BENCH_EVENTS='$(or $(EVENTS),1000000)' go test -run '^$$' -bench Plan -benchtime 3x -timeout 60m ./internal/plan

# The last recorded run of the benchmarks, in Go's format.
recorded := docs/bench/recorded.txt

.PHONY: bench
bench: ## Run the benchmarks, write bin/bench.json and compare with the recorded run; DUMP=file or DATABASE=url uses a Synapse's tables
	@scripts/servers
	@$(MAKE) --no-print-directory build
	@bin/lethe bench --json bin/bench.json --go bin/bench.txt $(if $(DUMP),--dump $(DUMP)) $(if $(DATABASE),--database '$(DATABASE)') $(BENCH)
	@scripts/compare-bench $(recorded) bin/bench.txt

.PHONY: test-bench
test-bench: ## Run every case of the benchmarks, with small sizes
	@scripts/servers
	LETHE_TEST_CASES=all go test -count 1 -timeout 30m -run TestEveryCase ./internal/bench

.PHONY: bench-record
bench-record: ## Record the last run of make bench, so that later runs are compared with it
	@mkdir -p $(dir $(recorded))
	cp bin/bench.txt $(recorded)

.PHONY: growth
growth: ## Measure how Lethe's times grow with events, rooms and jobs, in about ten minutes, and draw docs/growth.svg
	@scripts/servers
	@$(MAKE) --no-print-directory build
	@bin/lethe bench --case growth --json bin/growth.json --go bin/growth.txt $(BENCH)
	$(growth) run . '$(CURDIR)/bin/growth.json' '$(CURDIR)/docs/growth.svg'

.PHONY: vuln
vuln: ## Look for known vulnerabilities in the code that Lethe uses; needs vuln.go.dev or VULNDB=url
	$(tool) govulncheck $(if $(VULNDB),-db '$(VULNDB)') ./...

.PHONY: sbom
sbom: ## Write the list of modules with their licences to bin/sbom.json (CycloneDX)
	@mkdir -p bin
	$(tool) cyclonedx-gomod mod -json -licenses -output bin/sbom.json

.PHONY: release-check
release-check: ## Check .goreleaser.yaml as goreleaser reads it, and the workflows with actionlint
	$(actionlint)
	$(goreleaser) check

.PHONY: release-snapshot
release-snapshot: ## Build archives, packages, lists of modules and checksums into bin/release, and publish and sign nothing
	@mkdir -p bin
	REVISION='$(REVISION)' $(goreleaser) release --snapshot --clean --skip=publish,sign

.PHONY: chart
chart: ## Lint the Helm chart with its examples, and write what they render to for the tests of deploy
	@mkdir -p bin
	@for example in deploy/helm/examples/*.yaml; do \
		name=$$(basename $$example .yaml) && \
		$(helm) lint --quiet --strict --kube-version 1.30.0 deploy/helm -f $$example && \
		$(helm) template lethe deploy/helm -n lethe --kube-version 1.30.0 -f $$example >bin/chart.yaml && \
		mv bin/chart.yaml deploy/validate/testdata/chart/$$name.yaml || exit 1; \
	done
	go -C deploy/validate test -count 1 -run TestChart . -update

.PHONY: package-test
package-test: ## Install, run, upgrade and remove the Debian package of release-snapshot in ROOT, a Debian made by debootstrap
	scripts/test-package '$(or $(ROOT),bin/debian)' bin/release

.PHONY: walk
walk: ## Go from a new Debian to a purged room, with the package of release-snapshot and with the image's files, and time each step; DUMP is a Synapse's database, ROOT a folder that is made
	scripts/walk '$(or $(ROOT),bin/walk)' bin/release '$(DUMP)'

.PHONY: ansible-test
ansible-test: ## Check the Ansible role with ansible-lint, and run it without a container engine; needs ansible-core and ansible-lint
	LETHE_TEST_ANSIBLE=1 $(deploy) test -count 1 -run Ansible ./...

.PHONY: traefik-test
traefik-test: ## Hold the file for Traefik against the documents with Traefik's own routers, which take some minutes to build
	go -C test/traefik test -count 1 ./...

.PHONY: rename
rename: ## Give the module the path MODULE, such as example.org/matrix/lethe, in go.mod, imports and the linker's flags
	scripts/rename '$(MODULE)'

.PHONY: clean
clean: ## Remove the build and the data of make run
	rm -rf bin .lethe

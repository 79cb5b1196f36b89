# nfqfw: make help lists the targets.

GO ?= go
# What the tests need beyond Go: see integration/setup.sh.
SETUP = integration/setup.sh

# What check runs beyond Go: a linter, and the search for known vulnerabilities. Where
# the database cannot be reached, the one that the module proxy has is searched.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB = golang.org/x/vulndb@v0.0.0-20261105234957-e22db6528018

SIM_RUNS ?= 200000
RUNS ?= 100
SEED ?= 0
FUZZTIME ?= 30s
SOAK ?= 10m
BENCH ?=
COUNT ?= 6
BENCHTIME ?= 0.3s

# Where random looks for tests. Those of the lab are left out, as one run takes as long as
# dozens of all others: RANDOM_IN=integration RUNS=10 runs them.
RANDOM_IN ?= conntrack internal rules synproxy

# The packages whose benchmarks are of a packet's way, or of a listing, and do without
# the kernel.
MICRO = ./conntrack ./synproxy/... ./rules ./internal/wire ./internal/engine ./internal/daemon

.PHONY: help build setup test check demo sim random fuzz soak bench microbench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

# Without C: with it, no privilege can be dropped.
build: ## bin/nfqfw
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/nfqfw ./cmd/nfqfw

setup: ## install the Debian packages that tests and demo use (root)
	sh $(SETUP)

test: setup ## every test, those on the real kernel included (root)
	$(GO) test -count=1 -timeout 28m ./...

check: ## formatting, vet, linter, module files, known vulnerabilities
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) mod verify
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...
	GO="$(GO)" sh .ci/vulncheck $(GOVULNCHECK) $(VULNDB)

demo: setup build ## the story of the README on a lab of network namespaces (root)
	$(GO) build -trimpath -o bin/demo ./integration/demo
	bin/demo -nfqfw bin/nfqfw

sim: ## a long campaign of the simulation: SIM_RUNS new seeds, or one SEED with all that happens
	$(GO) test -count=1 -timeout 60m -v ./internal/sim -run Campaign -runs $(SIM_RUNS) -first 0 -seed $(SEED)

# Random tests are those that ask seedtest for numbers.
random: setup ## a long campaign of the random tests: RUNS new seeds each, or one SEED (root)
	@files=$$(grep -rl 'seedtest\.Rand(' --include='*_test.go' $(RANDOM_IN)); \
	tests=$$(awk '/^func /{split($$2, name, "(")} /seedtest\.Rand\(/ && name[1] ~ /^Test/{printf "%s%s", bar, name[1]; bar = "|"}' $$files); \
	$(GO) test -count=$(if $(filter-out 0,$(SEED)),1,$(RUNS)) -failfast -timeout 2h $$(dirname $$files | sort -u | sed 's,^,./,') \
		-run "^($$tests)\$$" -first 0 -seed $(SEED)

soak: setup ## everything at once for SOAK, with crashes, floods and reloads; what to repeat by SEED (root)
	$(GO) test -count=1 -timeout 2h -v ./integration -run 'TestSoak$$' -soak $(SOAK) -first 0 -seed $(SEED)

fuzz: ## every fuzz target, for FUZZTIME each
	@set -e; for file in $$(grep -rl '^func Fuzz' --include='*_test.go' .); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' $$file); do \
			echo "$$target $$(dirname $$file)"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$(dirname $$file); \
		done; \
	done

bench: setup build ## throughput, floods, memory, beside what else does it: BENCH=flags (root)
	$(GO) build -trimpath -o bin/bench ./integration/bench
	bin/bench -nfqfw bin/nfqfw -out bench $(BENCH)

microbench: ## what a packet costs, each step alone, COUNT times: for benchstat
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -count $(COUNT) -timeout 2h $(MICRO)

clean: ## remove what build made
	rm -rf bin

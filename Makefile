# make            what there is
# make test       install what the tests need (as root), build, vet, test: what CI does
# make test-long  the same with the long windows and loops
# make check      quick: format, vet, door rules, ten seconds of each fuzz target
# make build      static binaries for linux/amd64 and linux/arm64, at most 60 MB each
# make fuzz       every fuzz target for FUZZTIME (10m), one after the other; crashes are named
# make bench      processor time beside Kamailio's, then Go's benchmarks
# make peers      bytes and times of our engine beside go-ds-crdt's; the pair beside dmq_usrloc

export CGO_ENABLED = 0
export GOFLAGS ?= -mod=readonly
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
MAX_BYTES := 60000000

.PHONY: help test test-long check build bench peers fuzz deps
help:
	@sed -n '/^$$/q;s/^# //p' Makefile

deps:
	@sh test/deps.sh

bin/ccnode: FORCE
	go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/ccnode
FORCE:

# What runs whole boxes comes last and one at a time: it measures times.
# -count=1, because its result depends on more than Go's cache knows.
ALONE = $(shell go list ./... | grep -E '/test/(lab|bench|box|demo)(/|$$)')
REST = $(shell go list ./... | grep -Ev '/test/(lab|bench|box|demo)(/|$$)')

test: deps bin/ccnode
	go vet ./...
	@status=0; \
	go test -count=1 -p 2 -timeout 15m $(REST) || status=1; \
	CCNODE_BIN=$(CURDIR)/bin/ccnode go test -count=1 -p 1 -timeout 20m $(ALONE) || status=1; \
	exit $$status

test-long: deps bin/ccnode
	go vet ./...
	go test -count=1 -timeout 20m -tags mutants -run MutantsAreCaught ./test/sim
	CCNODE_LONG=1 CCNODE_BIN=$(CURDIR)/bin/ccnode go test -count=1 -p 1 -timeout 4h ./...

check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	go vet ./...
	go test ./test/archtest
	@sh test/fuzz.sh $(or $(FUZZTIME),10s)

fuzz:
	@sh test/fuzz.sh $(or $(FUZZTIME),10m)

build:
	@for arch in amd64 arm64; do \
		out=bin/ccnode-linux-$$arch; \
		GOOS=linux GOARCH=$$arch go build -trimpath -ldflags '$(LDFLAGS)' -o $$out ./cmd/ccnode || exit 1; \
		size=$$(stat -c %s $$out); \
		echo "$$out $$size bytes"; \
		test $$size -le $(MAX_BYTES) || { echo "$$out is over $(MAX_BYTES) bytes"; exit 1; }; \
	done

bench: deps bin/ccnode
	CCNODE_LONG=1 CCNODE_BIN=$(CURDIR)/bin/ccnode go test -count=1 -v -timeout 60m -run 'TestPeers' ./test/bench
	go test -run '^$$' -bench . -benchtime 1s -p 1 ./...

peers: deps bin/ccnode
	cd test/peers && go test -count=1 -v -timeout 15m -run TestStores .
	CCNODE_LONG=1 CCNODE_BIN=$(CURDIR)/bin/ccnode go test -count=1 -v -timeout 15m -run TestPeerRegistrars ./test/lab

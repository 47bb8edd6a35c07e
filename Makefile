# What needs Rust and make only: build, demo, test, lint, bench. `make help` lists everything.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
# The steps of one chain share the cores: the program itself runs in parallel, make does not.
.NOTPARALLEL:

CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
TUTORNET := $(TARGET)/release/tutornet
DEVICE ?= auto

.PHONY: help build demo demo-clean test test-interop bench bench-peers lint cache train FORCE

help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

build: $(TUTORNET) ## The program, as target/release/tutornet

# Cargo knows best whether there is something to build. Results depend on the program's presence
# (order-only, after the |), not on its age: a rebuilt program redoes nothing that is complete.
$(TUTORNET): FORCE
	@$(CARGO) build --release --locked

# ---------------------------------------------------------------------------------------------
# The demo: a teacher, its cache, one student trained three ways, scores, a table.
# ---------------------------------------------------------------------------------------------
DEMO := runs/demo
DEMO_TREE := tests/corpus/LibriSpeech
DEMO_SETS := dev-clean dev-other test-clean test-other
DEMO_STUDENTS := ctc skd rkd-skd
DEMO_RUNS := $(DEMO_STUDENTS) teacher
DEMO_CORPORA := $(foreach set,train $(DEMO_SETS),$(DEMO)/corpus/$(set)/corpus.toml)
DEMO_REPORT := $(DEMO)/report/report.md

demo: $(DEMO_REPORT) ## Teacher, cache and three students on tests/corpus; prints the table
	@cat $(DEMO_REPORT)
	@echo
	@for plot in $(DEMO)/report/*.svg; do echo "plot: $$plot"; done

demo-clean: ## Forgets the demo's results
	rm -rf $(DEMO)

$(DEMO_CORPORA): $(DEMO)/corpus/%/corpus.toml: $(DEMO_TREE)/CHECKSUMS | $(TUTORNET)
	@if [ -e $@ ]; then rm -rf $(@D); fi
	$(TUTORNET) prep librispeech $(DEMO_TREE) --subset $* --out $(@D)

# A run is done when .done says so; without it, training goes on where it stopped. When the pipeline
# or what it reads has changed it is another experiment: the earlier run steps aside as NAME.previous.N,
# which nothing ever removes. A pipeline that is only newer, not different, changes nothing.
# $(call train,pipeline,run,device,inputs)
define train
@inputs=$$(sha256sum $(1) $(4) | cut -c1-64 | sha256sum | cut -c1-64); \
if [ -e $(2)/.done ] && [ "$$(cat $(2)/.inputs 2> /dev/null)" = "$$inputs" ]; then \
	touch $(2)/.done; exit 0; \
fi; \
if [ -e $(2)/pipeline.toml ] && [ "$$(cat $(2)/.inputs 2> /dev/null)" != "$$inputs" ]; then \
	n=1; while [ -e $(2).previous.$$n ]; do n=$$((n + 1)); done; \
	mv $(2) $(2).previous.$$n; \
	echo "$(1) or what it reads has changed: the earlier run is now $(2).previous.$$n"; \
fi; \
mkdir -p $(2); echo "$$inputs" > $(2)/.inputs; \
echo "$(TUTORNET) train $(1) --out $(2) --resume --device $(3)"; \
$(TUTORNET) train $(1) --out $(2) --resume --device $(3); \
touch $(2)/.done
endef

$(DEMO_RUNS:%=$(DEMO)/%/.done): $(DEMO)/%/.done: pipelines/demo-%.toml $(DEMO_CORPORA) | $(TUTORNET)
	$(call train,$<,$(@D),cpu,$(filter %.toml,$^))
$(DEMO)/skd/.done $(DEMO)/rkd-skd/.done: $(DEMO)/cache/manifest.toml

$(DEMO)/cache/manifest.toml: $(DEMO)/teacher/.done $(DEMO)/corpus/train/corpus.toml | $(TUTORNET)
	@if [ -e $@ ]; then rm -rf $(@D); fi
	$(TUTORNET) cache --model $(DEMO)/teacher/student --corpus $(DEMO)/corpus/train --out $(@D) --device cpu

$(DEMO_RUNS:%=$(DEMO)/%/scores/.done): $(DEMO)/%/scores/.done: $(DEMO)/%/.done $(DEMO_CORPORA) | $(TUTORNET)
	@mkdir -p $(@D)
	@for set in $(DEMO_SETS); do \
		line=$$($(TUTORNET) -q eval --device cpu --model $(DEMO)/$*/student --corpus $(DEMO)/corpus/$$set \
			--out $(@D)/$$set.json); \
		echo "$* on $$set: $${line%%$$'\n'*}"; done
	@touch $@

$(DEMO_REPORT): $(DEMO_RUNS:%=$(DEMO)/%/scores/.done) | $(TUTORNET)
	@$(TUTORNET) -q report $(DEMO_RUNS:%=$(DEMO)/%) --out $(@D) --title "Demo: one student, trained three ways" > /dev/null

# ---------------------------------------------------------------------------------------------
# Your own experiments.
#   make cache TEACHER=models/quartznet CORPUS=corpora/clean-100 [CACHE=..] [DEVICE=cuda]
#   make train PIPELINE=pipelines/mine.toml [RUN=..]
# ---------------------------------------------------------------------------------------------
CACHE ?= caches/$(notdir $(TEACHER:%/=%))/$(notdir $(CORPUS:%/=%))
RUN ?= runs/$(basename $(notdir $(PIPELINE)))

ifneq ($(TEACHER),)
cache: $(CACHE)/manifest.toml
$(CACHE)/manifest.toml: $(TEACHER)/model.toml $(CORPUS)/corpus.toml | $(TUTORNET)
	$(TUTORNET) cache --model $(TEACHER) --corpus $(CORPUS) --out $(@D) --device $(DEVICE)
	@touch $@
else
cache: ## TEACHER=modeldir CORPUS=dir [CACHE=dir]: stage one, if anything changed
	@echo "usage: make cache TEACHER=modeldir CORPUS=dir [CACHE=dir]" >&2; exit 2
endif

ifneq ($(PIPELINE),)
# Every directory that the pipeline names and that is a corpus, a cache or a model.
NAMED := $(shell grep -v '^ *\#' $(PIPELINE) | grep -oE '"[^"]+"' | tr -d '"')
INPUTS := $(wildcard $(foreach dir,$(NAMED),$(dir)/corpus.toml $(dir)/manifest.toml $(dir)/model.toml))
train: $(RUN)/.done
$(RUN)/.done: $(PIPELINE) $(INPUTS) | $(TUTORNET)
	$(call train,$<,$(@D),$(DEVICE),$(INPUTS))
else
train: ## PIPELINE=file.toml [RUN=dir]: stage two, if anything changed
	@echo "usage: make train PIPELINE=file.toml [RUN=dir]" >&2; exit 2
endif

# ---------------------------------------------------------------------------------------------
# For developers.
# ---------------------------------------------------------------------------------------------
NOT_RUN := $(TARGET)/tmp/not-run.txt

test: ## Every test that needs Rust only; says at its end what was not run, and why
	@rm -f $(NOT_RUN)
	@status=0; $(CARGO) test --release --locked || status=$$?; echo; \
	if [ -s $(NOT_RUN) ]; then echo "Not run:"; sort -u $(NOT_RUN) | sed 's/^/  /'; \
	else echo "Not run: nothing, every test found what it needs."; fi; \
	exit $$status

test-interop: .venv/.done $(TUTORNET) ## Reads and writes our files with Python (makes .venv)
	@for script in tests/interop/*.py; do echo "== $$script"; \
		TUTORNET=$(abspath $(TUTORNET)) .venv/bin/python $$script; done

.venv/.done: tests/interop/requirements.txt
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench: ## Times what the design makes claims about
	$(CARGO) bench --locked --bench stages

# PyTorch beside us on the same work (docs: benches/peers/compare.py). About 3 GB are downloaded once;
# PEERS_PYTHON=some/python uses an interpreter that has the packages of requirements.txt already.
PEERS_PYTHON ?= .venv-peers/bin/python
ROWS ?=
ROUNDS ?= 9

bench-peers: $(if $(filter .venv-peers/%,$(PEERS_PYTHON)),.venv-peers/.done) ## [ROWS=words] [ROUNDS=9]: ours against PyTorch, one table
	@program=$$($(CARGO) bench --locked --bench peers --no-run --message-format=json-render-diagnostics \
		| sed -nE 's/.*"name":"peers".*"executable":"([^"]+)".*/\1/p'); \
	$(PEERS_PYTHON) benches/peers/compare.py --ours "$$program" --out $(TARGET)/bench-peers.json --rows "$(ROWS)" --rounds $(ROUNDS)

.venv-peers/.done: benches/peers/requirements.txt
	$(PYTHON) -m venv --clear .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

lint: ## Formatting and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets --locked -- -D warnings

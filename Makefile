# What needs Rust and make only: build, demo, test, lint, bench. `make help` lists everything.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
TUTORNET := $(TARGET)/release/tutornet
DEVICE ?= auto

.PHONY: help build demo demo-clean test test-interop test-torch test-bucket test-slurm torture fuzz bench bench-peers bench-read bench-memory bench-write bench-gpu bench-beam lint cache train FORCE

help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile pipelines/tables.mk | expand -t 20

BUILT := $(TARGET)/release/tutornet

build: $(BUILT) ## The program, as target/release/tutornet

# Cargo knows best whether there is something to build. Results depend on the program's presence
# (order-only, after the |), not on its age: a rebuilt program redoes nothing that is complete.
$(BUILT): FORCE
	@$(CARGO) build --release --locked

# ---------------------------------------------------------------------------------------------
# The demo: a teacher, its cache, one student trained three ways, scores, a table.
# ---------------------------------------------------------------------------------------------
DEMO := runs/demo
DEMO_TREE := tests/corpus/LibriSpeech
DEMO_SETS := dev-clean dev-other test-clean test-other
DEMO_CNNS := ctc skd rkd-skd teacher
DEMO_RNNS := rnn-ctc rnn-rkd-skd teacher
DEMO_RUNS := $(sort $(DEMO_CNNS) $(DEMO_RNNS))
DEMO_CORPORA := $(foreach set,train $(DEMO_SETS),$(DEMO)/corpus/$(set)/corpus.toml)
DEMO_REPORTS := $(DEMO)/report-rnn/report.md $(DEMO)/report/report.md

demo: $(DEMO_REPORTS) ## Teacher, cache, convolutional and recurrent students on tests/corpus; prints the tables
	@for report in $(DEMO_REPORTS); do cat $$report; echo; done
	@for plot in $(DEMO)/report*/*.svg; do echo "plot: $$plot"; done

demo-clean: ## Forgets the demo's results
	rm -rf $(DEMO)

$(DEMO_CORPORA): $(DEMO)/corpus/%/corpus.toml: $(DEMO_TREE)/CHECKSUMS | $(TUTORNET)
	@if [ -e $@ ]; then rm -rf $(@D); fi
	$(TUTORNET) prep librispeech $(DEMO_TREE) --subset $* --out $(@D)

# Results of other inputs than DIR/.inputs remembers are other results: they step aside as
# DIR.previous.N, which nothing ever removes. Inputs that are only newer, not different, change nothing, unless REDO=1.
# $(call settle,dir,inputs,the file that says there is something,words that are inputs as well)
define settle
inputs=$$({ sha256sum $(2) | cut -c1-64; $(if $(4),printf '%s\n' $(foreach word,$(4),'$(word)');) } | sha256sum | cut -c1-64); \
if [ -e $(1)/$(3) ] && [ "$(REDO)$$(cat $(1)/.inputs 2> /dev/null || echo "$$inputs")" != "$$inputs" ]; then \
	n=1; while [ -e $(1).previous.$$n ]; do n=$$((n + 1)); done; \
	mv $(1) $(1).previous.$$n; \
	echo "$(if $(REDO),REDO=$(REDO),what $(1) was made from has changed): the earlier one is now $(1).previous.$$n"; \
fi; \
mkdir -p $(1); echo "$$inputs" > $(1)/.inputs
endef

# A run is done when .done says so; without it, training goes on where it stopped.
# $(call train,pipeline,run,device,inputs,further flags)
define train
@$(call settle,$(2),$(1) $(4),pipeline.toml,$(5)); \
if [ -e $(2)/.done ]; then $(if $(4),,echo "$(2): made from the same, kept";) touch $(2)/.done; exit 0; fi; \
echo '$(TUTORNET) train $(1) --out $(2) --resume --device $(3) $(5)'; \
$(TUTORNET) train $(1) --out $(2) --resume --device $(3) $(5); \
touch $(2)/.done
endef

$(DEMO_RUNS:%=$(DEMO)/%/.done): $(DEMO)/%/.done: pipelines/demo-%.toml $(DEMO_CORPORA) | $(TUTORNET)
	$(call train,$<,$(@D),cpu,$(filter %.toml,$^))
$(DEMO)/skd/.done $(DEMO)/rkd-skd/.done $(DEMO)/rnn-rkd-skd/.done: $(DEMO)/cache/manifest.toml

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

$(DEMO)/report/report.md: $(DEMO_CNNS:%=$(DEMO)/%/scores/.done) | $(TUTORNET)
	@$(TUTORNET) -q report $(filter-out %/teacher,$(DEMO_CNNS:%=$(DEMO)/%)) --reference $(DEMO)/teacher --out $(@D) --title "Demo: one student, trained three ways" > /dev/null

$(DEMO)/report-rnn/report.md: $(DEMO_RNNS:%=$(DEMO)/%/scores/.done) | $(TUTORNET)
	@$(TUTORNET) -q report $(filter-out %/teacher,$(DEMO_RNNS:%=$(DEMO)/%)) --reference $(DEMO)/teacher --out $(@D) --title "Demo: a recurrent student of the convolutional teacher" > /dev/null

# ---------------------------------------------------------------------------------------------
# Your own experiments.
#   make cache TEACHER=models/quartznet CORPUS=corpora/clean-100 [CACHE=..] [DEVICE=cuda] [FLAGS="--layers 5,8"]
#   make train PIPELINE=pipelines/mine.toml [RUN=..] [FLAGS="--set seed=2"]
# Contents decide, not ages: both rules are always visited, and do nothing when all is as it was.
# ---------------------------------------------------------------------------------------------
# A trained model lies in RUN/student: the run names its cache.
CACHE ?= caches/$(notdir $(patsubst %/student,%,$(TEACHER:%/=%)))/$(notdir $(CORPUS:%/=%))
FLAGS ?=
RUN ?= runs/$(basename $(notdir $(PIPELINE)))

ifneq ($(and $(TEACHER),$(CORPUS)),)
cache: $(CACHE)/manifest.toml
$(CACHE)/manifest.toml: $(TEACHER)/model.toml $(CORPUS)/corpus.toml FORCE | $(TUTORNET)
	@known=$$(cat $(@D)/.inputs 2> /dev/null || true); \
	$(call settle,$(@D),$(filter %.toml,$^),cache.toml,$(FLAGS)); \
	if [ -e $@ ] && [ "$$known" = "$$inputs" ]; then echo "$(@D): made from the same, kept"; exit 0; fi; \
	echo '$(TUTORNET) cache --model $(TEACHER) --corpus $(CORPUS) --out $(@D) --device $(DEVICE) $(FLAGS)'; \
	$(TUTORNET) cache --model $(TEACHER) --corpus $(CORPUS) --out $(@D) --device $(DEVICE) $(FLAGS)
else
cache: ## TEACHER=modeldir CORPUS=dir [CACHE=dir] [FLAGS=..]: stage one, if anything changed
	@echo "usage: make cache TEACHER=modeldir CORPUS=dir [CACHE=dir] [FLAGS=..]" >&2; exit 2
endif

# What is not there cannot be made from nothing: say how it is made.
%/model.toml:
	@if [ -e $(@D)/student/model.toml ]; then echo "$(@D) is a run, whose model is TEACHER=$(@D)/student" >&2; \
	else echo "$(@D) is no model directory: tutornet import CHECKPOINT --out $(@D) makes one" >&2; fi; exit 2
%/corpus.toml:
	@echo "$(@D) is no corpus: tutornet prep librispeech ROOT --subset NAME --out $(@D) makes one" >&2; exit 2

ifneq ($(PIPELINE),)
ifeq ($(wildcard $(PIPELINE)),)
$(error PIPELINE=$(PIPELINE): no such file; pipelines/ has examples)
endif
# Every directory that the pipeline names and that is a corpus, a cache or a model.
NAMED := $(shell grep -v '^ *\#' $(PIPELINE) | grep -oE '"[^"]+"' | tr -d '"')
INPUTS := $(wildcard $(foreach dir,$(NAMED),$(dir)/corpus.toml $(dir)/manifest.toml $(dir)/model.toml))
train: $(RUN)/.done
$(RUN)/.done: $(PIPELINE) $(INPUTS) FORCE | $(TUTORNET)
	$(call train,$<,$(@D),$(DEVICE),$(INPUTS),$(FLAGS))
else
train: ## PIPELINE=file.toml [RUN=dir] [FLAGS=..]: stage two, if anything changed
	@echo "usage: make train PIPELINE=file.toml [RUN=dir] [FLAGS=..]" >&2; exit 2
endif

include pipelines/tables.mk

# ---------------------------------------------------------------------------------------------
# For developers.
# ---------------------------------------------------------------------------------------------
NOT_RUN := $(TARGET)/tmp/not-run.txt
PEERS_PYTHON ?= .venv-peers/bin/python

test: ## Every test that needs Rust only; says at its end what was not run, and why
	@rm -f $(NOT_RUN)
	@status=0; $(CARGO) test --release --locked || status=$$?; echo; \
	$(CARGO) build --release --locked --benches || status=$$?; \
	if [ -s $(NOT_RUN) ]; then echo "Not run:"; sort -u $(NOT_RUN) | sed 's/^/  /'; \
	else echo "Not run: nothing, every test found what it needs."; fi; \
	exit $$status

# Half an hour on two cores. SEED=n repeats a run.
SEED ?= $(shell date +%s)

torture: ## [SEED=n] Kills, full disks, closed places, wrong clocks and changed bits, in full
	TUTORNET_TORTURE=full TUTORNET_TORTURE_SEED=$(SEED) $(CARGO) test --release --locked --test it torture:: -- --nocapture --test-threads=1

# Nightly Rust and cargo-fuzz. What it finds goes to fuzz/found; to keep what is worth it: copy it to fuzz/corpus, then
# `cargo +nightly fuzz cmin TARGET`.
FUZZ_SECONDS ?= 300
FUZZ_TARGETS ?= shard texts codec payload

fuzz: ## [FUZZ_SECONDS=300] [FUZZ_TARGETS="shard texts codec payload"]: coverage-guided fuzzing of what reads caches
	@set -e; for target in $(FUZZ_TARGETS); do mkdir -p fuzz/found/$$target; \
		$(CARGO) +nightly fuzz run -O $$target fuzz/found/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -malloc_limit_mb=600 \
			-max_len=16384 -timeout=20 -print_final_stats=1; done

test-interop: .venv/.done $(TUTORNET) ## Reads and writes our files with Python: pyarrow, polars, DuckDB (makes .venv)
	@for script in $(filter-out %/made.py,$(wildcard tests/interop/*.py)); do echo "== $$script"; \
		TUTORNET=$(abspath $(TUTORNET)) .venv/bin/python $$script; done

MEGABYTES ?= 64
test-bucket: .venv/.done $(TUTORNET) ## CORPUS=dir CACHE=dir [MEGABYTES=64]: trains from them in a bucket that goes away, with a small local copy
	@[ -n "$(CORPUS)" ] || { echo "usage: make test-bucket CORPUS=dir CACHE=dir [MEGABYTES=64]" >&2; exit 2; }
	TUTORNET=$(abspath $(TUTORNET)) .venv/bin/python tests/interop/s3.py $(CORPUS) $(CACHE) $(MEGABYTES)

# PyTorch's package for Linux wants CUDA's libraries to be imported at all: 3 GB, which is why this stands alone. The
# environment is that of bench-peers; PEERS_PYTHON=some/python uses another that has both requirements.txt.
test-torch: $(if $(filter .venv-peers/%,$(PEERS_PYTHON)),.venv-peers/.interop) $(TUTORNET) ## The same of a model in PyTorch (downloads 3 GB)
	TUTORNET=$(abspath $(TUTORNET)) $(PEERS_PYTHON) tests/interop/write_cache.py --torch

.venv-peers/.interop: .venv-peers/.done tests/interop/requirements.txt
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
	@touch $@

.venv/.done: tests/interop/requirements.txt
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench: ## Times what the design makes claims about
	$(CARGO) bench --locked --bench stages

# PyTorch beside us on the same work (docs: benches/peers/compare.py). About 3 GB are downloaded once;
# PEERS_PYTHON=some/python uses an interpreter that has the packages of requirements.txt already.
# CORPUS and its CACHE give the training steps real utterances and targets, SPEECH the teacher a whole corpus.
PEERS_SPEECH = $(if $(CORPUS),--corpus $(CORPUS)) $(if $(filter command environment,$(firstword $(origin CACHE))),--cache $(CACHE)) \
	$(if $(SPEECH),--speech $(SPEECH))
ROWS ?=
ROUNDS ?= 9

bench-peers: $(if $(filter .venv-peers/%,$(PEERS_PYTHON)),.venv-peers/.done) ## [ROWS=words] [ROUNDS=9] [CORPUS=dir CACHE=dir] [SPEECH=dir]: ours against PyTorch
	@program=$$($(CARGO) bench --locked --bench peers --no-run --message-format=json-render-diagnostics \
		| sed -nE 's/.*"name":"peers".*"executable":"([^"]+)".*/\1/p'); \
	$(PEERS_PYTHON) benches/peers/compare.py --ours "$$program" --out $(TARGET)/bench-peers.json --rows "$(ROWS)" --rounds $(ROUNDS) \
		$(PEERS_SPEECH)

# The same on a GPU. DEVICE=cuda builds with that feature, DEVICE=wgpu as ever; PEER_DEVICE=cpu compares with PyTorch on
# the CPU. OURS=path takes a program that was built elsewhere, for a machine without a compiler.
PEER_DEVICE ?= cuda
GPU := $(if $(filter auto,$(DEVICE)),cuda,$(DEVICE))

bench-gpu: $(if $(filter .venv-peers/%,$(PEERS_PYTHON)),.venv-peers/.done) ## [DEVICE=cuda|wgpu] [ROWS=words]: the same on a GPU
	@program='$(OURS)'; [ -n "$$program" ] || program=$$($(CARGO) bench --locked --bench peers --no-run \
		$(if $(filter cuda%,$(GPU)),--features cuda) --message-format=json-render-diagnostics \
		| sed -nE 's/.*"name":"peers".*"executable":"([^"]+)".*/\1/p'); \
	mkdir -p $(TARGET); \
	$(PEERS_PYTHON) benches/peers/compare.py --ours "$$program" --out $(TARGET)/bench-gpu.json --rows "$(ROWS)" --rounds $(ROUNDS) \
		--device $(GPU) --peer-device $(PEER_DEVICE) $(PEERS_SPEECH)

# Reading beside the zstd library, pyarrow, datasets, lhotse and others (docs: benches/peers/read.py). CACHES: an exact cache
# first, then what `tutornet cache recode` made of it. LIMIT: utterances. READ_PYTHON as PEERS_PYTHON.
READ_PYTHON ?= .venv-read/bin/python
LIMIT ?= 1000000
READ_PROGRAM = $$($(CARGO) bench --locked --bench read --no-run --message-format=json-render-diagnostics \
	| sed -nE 's/.*"name":"read".*"executable":"([^"]+)".*/\1/p')

bench-read: $(if $(filter .venv-read/%,$(READ_PYTHON)),.venv-read/.done) ## CACHES="dir .." [LIMIT=n] [ROUNDS=9]: reading a cache, ours against others
	@$(READ_PYTHON) benches/peers/read.py --ours "$(READ_PROGRAM)" --caches $(CACHES) --limit $(LIMIT) --rounds $(ROUNDS) \
		--out $(TARGET)/bench-read.json

.venv-read/.done: benches/peers/read-requirements.txt
	$(PYTHON) -m venv --clear .venv-read
	.venv-read/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-write: $(TUTORNET) ## TEACHER=modeldir CORPUS=dir [ROUNDS=1] [SCRATCH=dir]: stage one with each codec over the bare forward pass
	@[ -n "$(and $(TEACHER),$(CORPUS))" ] || { echo "usage: make bench-write TEACHER=modeldir CORPUS=dir [ROUNDS=1]" >&2; exit 2; }
	@mkdir -p $(SCRATCH); $(PYTHON) benches/peers/write.py --tutornet $(abspath $(TUTORNET)) --model $(TEACHER) --corpus $(CORPUS) \
		--rounds $(if $(filter command environment,$(firstword $(origin ROUNDS))),$(ROUNDS),1) --scratch $(SCRATCH)

# Training from a cache and from one of TIMES its size: the same anonymous memory, and mapped pages that stay bounded. Needs
# TIMES + 1 times the space of CACHE and CORPUS in SCRATCH.
TIMES ?= 10
SCRATCH ?= $(TARGET)/tmp

bench-memory: $(TUTORNET) ## CACHE=dir CORPUS=dir [TIMES=10] [SCRATCH=dir]: memory of training, by size of the cache
	@mkdir -p $(SCRATCH); $(PYTHON) benches/peers/memory.py --ours "$(READ_PROGRAM)" --tutornet $(abspath $(TUTORNET)) \
		--cache $(CACHE) --corpus $(CORPUS) --times $(TIMES) --scratch $(SCRATCH)

# The beam search beside pyctcdecode and KenLM. CACHE=dir (made with --nbest, --beam 256, --lm-weight 2 and --word-bonus 1.5)
# and ARPA=file take the place of the committed corpus. pyctcdecode asks for an old NumPy that it does not need.
bench-beam: .venv-beam/.done $(TUTORNET) ## [CACHE=dir ARPA=file]: the beam search beside pyctcdecode
	@TUTORNET=$(abspath $(TUTORNET)) .venv-beam/bin/python benches/peers/beam.py $(if $(ARPA),--cache $(CACHE) --arpa $(ARPA))

.venv-beam/.done: benches/peers/beam-requirements.txt
	$(PYTHON) -m venv --clear .venv-beam
	.venv-beam/bin/pip install --quiet --disable-pip-version-check -r $<
	.venv-beam/bin/pip install --quiet --disable-pip-version-check --no-deps pyctcdecode==0.5.0
	@touch $@

.venv-peers/.done: benches/peers/requirements.txt
	$(PYTHON) -m venv --clear .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

test-slurm: $(TUTORNET) ## pipelines/slurm under a real Slurm (root; slurm-wlm, munge, bindfs) [MODEL=dir CORPUS=dir LOG=file]
	TUTORNET=$(abspath $(TUTORNET)) tests/interop/mounts.sh
	TUTORNET=$(abspath $(TUTORNET)) MODEL='$(MODEL)' CORPUS='$(CORPUS)' LOG='$(LOG)' tests/interop/slurm.sh

lint: ## Formatting and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets --locked -- -D warnings

# The paper's tables: `make table-i` .. `make table-xii`, `make tables`, with SCALE=demo|mini|librispeech.
#
#   pipelines/tables/NAME.toml      an experiment: its stages, objectives and teachers, with the paper's lengths
#   pipelines/tables/SCALE.mk       students, batches and optimisers of a scale, and where its corpora and its teacher are
#   pipelines/tables/table-N.toml   which run stands in which row
#   below                           which run is which pipeline with which student and which keys changed
#
# All results of a scale lie in runs/tables/SCALE: corpus/ (links), teacher/, cache/RUN, RUN, report/. A cache is named
# after the run that teaches, so a chain (model -> cache -> run -> cache -> run) is nothing but prerequisites, and -j
# runs what does not wait for each other. Every step goes on where it was stopped.
#
# Contents decide, not ages: a step whose inputs are newer but the same is visited and kept; one whose inputs
# differ is done again, and what it had made before steps aside as RUN.previous.N. REDO=1 does again whatever
# make would visit, so that `touch CACHE/manifest.toml; make tables REDO=1` trains the students of one cache anew.
SCALE ?= demo
TABLES_HOME := pipelines/tables
T := runs/tables/$(SCALE)

ifeq ($(wildcard $(TABLES_HOME)/$(SCALE).mk),)
$(error SCALE=$(SCALE): expected one of $(patsubst $(TABLES_HOME)/%.mk,%,$(wildcard $(TABLES_HOME)/*.mk)))
endif
include $(TABLES_HOME)/$(SCALE).mk

SEEDS ?= 1
CORPORA ?= corpora

# ---------------------------------------------------------------------------------------------
# Runs: student, pipeline, keys. A key is what `train --set` takes.
# ---------------------------------------------------------------------------------------------

RUN.cnn-ctc := cnn ctc
RUN.cnn-kd := cnn kd
RUN.cnn-skd := cnn skd
RUN.cnn-rkd-ctc := cnn rkd-ctc
RUN.cnn-rkd-skd := cnn rkd-skd
RUN.cnn-guided := cnn guided
RUN.cnn-guided-blank := cnn guided stage.0.guide_blank=true
RUN.cnn-sequence := cnn sequence
# The mask (III), the bridge (IV), the temperature (VII), lambda (VIII).
RUN.cnn-rkd-unmasked-ctc := cnn rkd-ctc stage.0.frame_weighting=false
RUN.cnn-rkd-unmasked-skd := cnn rkd-skd stage.0.frame_weighting=false
RUN.cnn-rkd-kernel3-skd := cnn rkd-skd stage.0.bridge_kernel=3
RUN.cnn-rkd-kernel5-skd := cnn rkd-skd stage.0.bridge_kernel=5
RUN.cnn-skd-t2 := cnn skd stage.0.temperature=2.0
RUN.cnn-skd-t5 := cnn skd stage.0.temperature=5.0
RUN.cnn-skd-l0.1 := cnn skd stage.0.lambda=0.1
RUN.cnn-skd-l0.25 := cnn skd stage.0.lambda=0.25
RUN.cnn-skd-l0.5 := cnn skd stage.0.lambda=0.5
RUN.cnn-skd-l1.0 := cnn skd stage.0.lambda=1.0
# With the lambda that this scale has everywhere (the paper's 0.25 unless SCALE.mk says otherwise) it is the same run.
SAME.cnn-skd-l$(or $(LAMBDA),0.25) := cnn-skd
# A recurrent student of the convolutional teacher (VI); the second and the fourth teach next.
RUN.rnn-ctc := rnn ctc
RUN.rnn-skd := rnn skd
RUN.rnn-rkd-unmasked-skd := rnn rkd-skd stage.0.frame_weighting=false
RUN.rnn-rkd-skd := rnn rkd-skd
RUN.rnn-guided := rnn guided
RUN.rnn-sequence := rnn sequence
# Recurrent teachers (IX, X), two teachers (XII).
RUN.cnn-skd-from-rnn-skd := cnn skd-from-rnn-skd
RUN.cnn-rkd-skd-from-rnn-skd := cnn rkd-skd-from-rnn-skd
RUN.cnn-skd-from-rnn-rkd-skd := cnn skd-from-rnn-rkd-skd
RUN.cnn-rkd-skd-from-rnn-rkd-skd := cnn rkd-skd-from-rnn-rkd-skd
RUN.rnn-skd-from-rnn-skd := rnn skd-from-rnn-skd
RUN.rnn-rkd-skd-from-rnn-skd := rnn rkd-skd-from-rnn-skd
RUN.rnn-skd-from-rnn-rkd-skd := rnn skd-from-rnn-rkd-skd
RUN.rnn-rkd-skd-from-rnn-rkd-skd := rnn rkd-skd-from-rnn-rkd-skd
RUN.cnn-two-teachers := cnn two-teachers
RUN.cnn-fused := cnn fused

# What the files say: of a pipeline the number of its stages, which of them has SKD, and the caches it reads, of a table the runs in its rows
# and those that are decoded with the beam as well.
TABLE_FACTS := $(shell awk ' \
	FNR == 1 { name = FILENAME; sub(/.*\//, "", name); sub(/\.toml$$/, "", name) } \
	/^ *\#/ { next } \
	/^\[\[stage\]\]/ { stages[name]++ } \
	/^objective = "ctc\+skd"/ { print "SKD." name ":=" stages[name] - 1 } \
	{ line = $$0; while (match(line, /"cache\/[^"]+"/)) { \
		print "CACHES." name "+=" substr(line, RSTART + 7, RLENGTH - 8); line = substr(line, RSTART + RLENGTH) } } \
	/^run = "/ { split($$0, part, "\""); run = part[2]; print "ROWS." name "+=" run } \
	/^scores = "beam"/ { print "BEAMS." name "+=" run } \
	END { for (name in stages) print "STAGES." name ":=" stages[name] }' $(TABLES_HOME)/*.toml)
$(foreach fact,$(TABLE_FACTS),$(eval $(fact)))

TABLE_NAMES := $(patsubst $(TABLES_HOME)/%.toml,%,$(wildcard $(TABLES_HOME)/table-*.toml))
TABLE_RUNS := $(patsubst RUN.%,%,$(filter RUN.%,$(.VARIABLES)))

# Directory of a run: the first seed has the bare name. $(call seeded,RUN,SEED)
seeded = $(1)$(if $(filter-out 1,$(2)),.seed$(2))
# Every key that a run's pipeline is changed by, later ones winning. $(call keys,RUN,SEED)
keys = $(call keys_of,$(word 1,$(RUN.$(1))),$(word 2,$(RUN.$(1))),$(wordlist 3,99,$(RUN.$(1))),$(2))
keys_of = $(KEYS) $(KEYS.$(1)) $(KEYS.$(1).$(STAGES.$(2))) \
	$(if $(and $(LAMBDA),$(SKD.$(2))),stage.$(SKD.$(2)).lambda=$(LAMBDA)) $(3) $(if $(filter-out 1,$(4)),seed=$(4))

# ---------------------------------------------------------------------------------------------
# Corpora and the teacher are links; .NAME is touched when a link leads elsewhere or what it leads to is newer.
# ---------------------------------------------------------------------------------------------
TABLE_SETS := $(TRAIN_SET) $(EVAL_SETS)
# Under one name at every scale. $(call link_of,SET)
link_of = $(if $(filter $(TRAIN_SET),$(1)),train,$(1))

# $(call link,from,to,stamp,the file whose age counts)
define link
@mkdir -p $(dir $(3)); \
if [ "$$(readlink $(2))" != "$(abspath $(1))" ]; then ln -sfn "$(abspath $(1))" $(2); touch $(3); \
elif [ ! -e $(3) ] || [ $(4) -nt $(3) ]; then touch $(3); fi
endef

# $(call corpus_rules,SET)
define corpus_rules
$(T)/corpus/.$(call link_of,$(1)): $(CORPORA)/$(1)/corpus.toml FORCE
	$$(call link,$(CORPORA)/$(1),$(T)/corpus/$(call link_of,$(1)),$$@,$$<)
endef
$(foreach set,$(TABLE_SETS),$(eval $(call corpus_rules,$(set))))

ifneq ($(LIBRISPEECH),)
# $(call prep_rules,SET)
define prep_rules
$(CORPORA)/$(1)/corpus.toml: | $(TUTORNET)
	$(TUTORNET) prep librispeech $(LIBRISPEECH) $(addprefix --subset ,$(or $(SUBSETS.$(1)),$(1))) --out $(CORPORA)/$(1) $(PREP)
endef
$(foreach set,$(TABLE_SETS),$(eval $(call prep_rules,$(set))))
endif

# The teacher is a run of another make target, or a model that was imported.
ifneq ($(TEACHER_RUN),)
$(T)/.teacher: $(TEACHER_RUN)/.done FORCE
	$(call link,$(TEACHER_RUN),$(T)/teacher,$@,$(TEACHER_RUN)/student/model.toml)
else
$(T)/.teacher: $(MODEL)/model.toml FORCE
	@mkdir -p $(T)/teacher
	$(call link,$(MODEL),$(T)/teacher/student,$@,$<)
ifneq ($(CHECKPOINT),)
$(MODEL)/model.toml: $(CHECKPOINT) | $(TUTORNET)
	$(TUTORNET) import $(CHECKPOINT) --out $(MODEL) --force $(IMPORT)
endif
endif

# ---------------------------------------------------------------------------------------------
# The language model of sequence-level distillation and of Table XI: LM=file.arpa, or one made from the transcripts
# of the training corpus (or LM_TEXT="file .."), with word counts from LM_COUNTS=file.
# ---------------------------------------------------------------------------------------------
LM_ORDER ?= 3
# The paper's: five texts of a beam of 256, weights on the log10 scale.
SEARCH ?= --beam 256 --lm-weight 2.0 --word-bonus 1.5
NBEST ?= 5

# Which model it is and how it is searched with stands in .lm, so that a change is noticed whatever the ages.
LM_IS := $(strip $(LM) $(LM_TEXT) $(LM_COUNTS) $(LM_ORDER) $(SEARCH) --nbest $(NBEST))
ifneq ($(strip $(file < $(T)/.lm)),$(LM_IS))
$(T)/.lm: FORCE
endif
ifneq ($(LM),)
$(T)/.lm: $(LM)
	@mkdir -p $(@D)
	ln -sfn $(abspath $(LM)) $(@D)/lm.arpa
	@echo "$(LM_IS)" > $@
else
$(T)/.lm: $(LM_TEXT) $(LM_COUNTS) $(T)/corpus/.train | $(TUTORNET)
	@rm -f $(@D)/lm.arpa
	$(TUTORNET) lm build --text $(or $(LM_TEXT),$(T)/corpus/train) $(if $(LM_COUNTS),--counts $(LM_COUNTS)) \
		--order $(LM_ORDER) --out $(@D)/lm.arpa
	@echo "$(LM_IS)" > $@
endif

# ---------------------------------------------------------------------------------------------
# Caches: of every run that teaches, over the training corpus.
# ---------------------------------------------------------------------------------------------
# Under -j the lines of several steps mix: each says one line, the rest goes to a file.
# $(call logged,what is done,command,name of the log)
define logged
mkdir -p $(T)/log; echo "$(1)"; \
if ! ( $(2) ) > $(T)/log/$(3) 2>&1; then tail -n 5 $(T)/log/$(3) >&2; echo "all of it: $(T)/log/$(3)" >&2; exit 1; fi
endef

# $(call cache_once,teacher's directory,flags,further inputs)
define cache_once
@$(call settle,$(@D),$(1)/student/model.toml $(T)/corpus/train/corpus.toml $(3),cache.toml,$(strip $(2))); \
if [ -e $@ ]; then echo "$(@D): made from the same, kept"; touch $@; exit 0; fi; \
$(call logged,cache $(@D),$(TUTORNET) cache --model $(1)/student --corpus $(T)/corpus/train --out $(@D) \
	--device $(TABLES_DEVICE) $(2),cache-$(notdir $(@D)).txt); \
touch $@
endef

TAUGHT := $(filter-out teacher teacher-nbest,$(sort $(foreach run,$(TABLE_RUNS),$(CACHES.$(word 2,$(RUN.$(run)))))))
$(TAUGHT:%=$(T)/cache/%/manifest.toml): $(T)/cache/%/manifest.toml: $(T)/%/.done $(T)/corpus/.train | $(TUTORNET)
	$(call cache_once,$(T)/$*)
$(T)/cache/teacher/manifest.toml: $(T)/.teacher $(T)/corpus/.train | $(TUTORNET)
	$(call cache_once,$(T)/teacher)
# A cache of its own, so that the other tables need neither a language model nor a beam search.
$(T)/cache/teacher-nbest/manifest.toml: $(T)/.teacher $(T)/corpus/.train $(T)/.lm | $(TUTORNET)
	$(call cache_once,$(T)/teacher,--nbest $(NBEST) $(SEARCH) --lm $(T)/lm.arpa,$(T)/lm.arpa)

# ---------------------------------------------------------------------------------------------
# Runs and their scores. Training happens in the scale's directory, where the pipelines' paths are.
# ---------------------------------------------------------------------------------------------
CORPUS_STAMPS := $(patsubst %,$(T)/corpus/.%,train $(DEV_SETS))
EVAL_STAMPS := $(EVAL_SETS:%=$(T)/corpus/.%)
# $(call run_inputs,PIPELINE): the files whose contents make a run what it is.
run_inputs = $(TABLES_HOME)/$(1).toml $(patsubst %,$(T)/corpus/%/corpus.toml,train $(DEV_SETS)) \
	$(CACHES.$(1):%=$(T)/cache/%/manifest.toml)

# Keys come from makefiles and the command line, whose ages say nothing: a run whose keys are others than .keys has is visited.
# (strip: make 4.3 now and then leaves the line end on what it reads.) $(call forced,RUN,SEED,DIRECTORY)
forced = $(call unless_same,$(strip $(file < $(T)/$(3)/.keys)),$(strip $(call keys,$(1),$(2))))
unless_same = $(if $(and $(findstring x$(1)x,x$(2)x),$(findstring x$(2)x,x$(1)x)),,FORCE)

# $(call train_once,RUN,SEED,PIPELINE)
define train_once
@$(call settle,$(@D),$(call run_inputs,$(3)),pipeline.toml,$(strip $(call keys,$(1),$(2)))); \
echo '$(strip $(call keys,$(1),$(2)))' > $(@D)/.keys; \
if [ -e $@ ]; then echo "$(@D): made from the same, kept"; touch $@; exit 0; fi; \
$(call logged,train $(@D),cd $(T) && $(abspath $(TUTORNET)) train $(abspath $(TABLES_HOME)/$(3).toml) \
	--out $(notdir $(@D)) --resume --device $(TABLES_DEVICE) $(patsubst %,--set '%',$(call keys,$(1),$(2))),$(notdir $(@D)).txt); \
touch $@
endef

# $(call score_once,run's directory,flags,further inputs)
define score_once
@inputs=$$(sha256sum $(1)/student/model.toml $(EVAL_SETS:%=$(T)/corpus/%/corpus.toml) $(3) | cut -c1-64; echo $(2)); \
if [ -e $@ ] && [ "$$(cat $@)" = "$$inputs" ] && [ -z "$(REDO)" ]; then touch $@; exit 0; fi; \
mkdir -p $(@D); rm -f $(@D)/*.json $(@D)/*.tsv $@; echo "score $(@D)"; \
for set in $(EVAL_SETS); do \
	$(TUTORNET) -q eval --device $(TABLES_DEVICE) --model $(1)/student --corpus $(T)/corpus/$$set $(2) --out $(@D)/$$set.json > /dev/null; \
done; \
echo "$$inputs" > $@
endef

# $(call run_rules,RUN,SEED,DIRECTORY,PIPELINE)
define run_rules
$(T)/$(3)/.done: $(TABLES_HOME)/$(4).toml $(CORPUS_STAMPS) $(CACHES.$(4):%=$(T)/cache/%/manifest.toml) \
	$(call forced,$(1),$(2),$(3)) | $(TUTORNET)
	$$(call train_once,$(1),$(2),$(4))
$(T)/$(3)/scores/.done: $(T)/$(3)/.done $(EVAL_STAMPS) | $(TUTORNET)
	$$(call score_once,$(T)/$(3))
$(T)/$(3)/scores/beam/.done: $(T)/$(3)/.done $(T)/$(3)/scores/.done $(T)/.lm $(EVAL_STAMPS) | $(TUTORNET)
	$$(call score_once,$(T)/$(3),$(SEARCH) --lm $(T)/lm.arpa,$(T)/lm.arpa)
endef
# $(call same_rules,directory,directory of the run that it is): a link. What was a run of its own steps aside.
define same_rules
$(T)/$(1)/scores/.done: $(T)/$(2)/scores/.done
	@if [ ! -L $(T)/$(1) ] && [ -e $(T)/$(1) ]; then mv $(T)/$(1) $(T)/$(1).previous.$$$$(date +%s); fi; \
	ln -sfn $(2) $(T)/$(1)
endef
# The first seed always has rules: it is the one that teaches.
$(foreach run,$(TABLE_RUNS),$(foreach seed,$(sort 1 $(SEEDS)),$(eval $(if $(SAME.$(run)), \
	$(call same_rules,$(call seeded,$(run),$(seed)),$(call seeded,$(SAME.$(run)),$(seed))), \
	$(call run_rules,$(run),$(seed),$(call seeded,$(run),$(seed)),$(word 2,$(RUN.$(run))))))))

# A teacher that is a run of another target is scored there as well.
ifneq ($(TEACHER_RUN),)
$(T)/teacher/scores/.done: $(TEACHER_RUN)/scores/.done | $(T)/.teacher ;
else
$(T)/teacher/scores/.done: $(T)/.teacher $(EVAL_STAMPS) | $(TUTORNET)
	$(call score_once,$(T)/teacher)
endif

# ---------------------------------------------------------------------------------------------
# Reports: of one table, and of all on one page.
# ---------------------------------------------------------------------------------------------
# $(call scores_of,TABLE): what its rows need.
scores_of = $(foreach run,$(sort $(ROWS.$(1))),$(if $(filter teacher,$(run)),$(T)/teacher/scores/.done,$(foreach seed,$(SEEDS),$(T)/$(call seeded,$(run),$(seed))/scores/.done))) \
	$(foreach run,$(sort $(BEAMS.$(1))),$(foreach seed,$(SEEDS),$(T)/$(call seeded,$(run),$(seed))/scores/beam/.done))

# $(call table_rules,TABLE)
define table_rules
.PHONY: $(1)
$(1): $(T)/report/$(1)/report.md
	@cat $$<; echo; echo "page: $$(<D)/report.html"
$(T)/report/$(1)/report.md: $(TABLES_HOME)/$(1).toml $(call scores_of,$(1)) | $(TUTORNET)
	@$(TUTORNET) -q report --table $$< --runs $(T) --out $$(@D) --note "$(NOTE)" > /dev/null
endef
$(foreach table,$(TABLE_NAMES),$(eval $(call table_rules,$(table))))

# In the order of their numbers.
TABLES_IN_ORDER := $(filter $(TABLE_NAMES),$(addprefix table-,i ii iii iv v vi vii viii ix x xi xii))

.PHONY: tables
tables: $(T)/report/report.md $(TABLE_NAMES:%=$(T)/report/%/report.md) ## [SCALE=demo|mini|librispeech] [SEEDS="1 2"]: Tables I to XII; `make table-v` makes one
	@echo "tables: $(<D)/table-*/report.md"; echo "page of all: $(<D)/report.html"

$(T)/report/report.md: $(TABLES_IN_ORDER:%=$(TABLES_HOME)/%.toml) $(foreach table,$(TABLE_NAMES),$(call scores_of,$(table))) | $(TUTORNET)
	@$(TUTORNET) -q report $(TABLES_IN_ORDER:%=--table $(TABLES_HOME)/%.toml) --runs $(T) --out $(@D) \
		--title "Tables I to XII, scale $(SCALE)" --note "$(NOTE)" > /dev/null

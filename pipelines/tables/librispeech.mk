# SCALE=librispeech: the paper's own: 960 hours, Jasper DR 10x5, full-size students, the pipelines as they stand.
#   LIBRISPEECH=dir     the unpacked archives, from which corpora are prepared into CORPORA (default: corpora);
#                       without it CORPORA must hold train-960, dev-clean, dev-other, test-clean and test-other
#   CHECKPOINT=file     Jasper DR, imported to MODEL (default: models/jasper-dr) with IMPORT="flags"
#   PREP="--frontend openseq2seq"   features of the corpora: those that the teacher was trained on
#   LM=file.arpa        the language model of Table XI and of sequence-level distillation; LibriSpeech's own is 4-gram.arpa
NOTE := Scale librispeech: the paper's data, models and lengths.

TRAIN_SET := train-960
DEV_SETS := dev-clean
EVAL_SETS := dev-clean dev-other test-clean test-other
TABLES_DEVICE := $(DEVICE)
SUBSETS.train-960 := train-clean-100 train-clean-360 train-other-500

# The recipes of pipelines/presets, which say where each value is from; lengths are those of the pipelines.
KEYS := data.batch_utterances=32 data.batch_seconds=534.4
KEYS.cnn := data.spec_augment.freq_masks=2 data.spec_augment.freq_width=6 \
	data.spec_augment.time_masks=2 data.spec_augment.time_width=6 optimizer.larc=0.001
KEYS.rnn := student.preset=deepspeech2 student.dropout=0.5 optimizer.name=adam optimizer.learning_rate=1e-3 \
	optimizer.weight_decay=0.0 optimizer.l2=5e-4 optimizer.schedule.power=0.5 optimizer.schedule.min=0.0

MODEL ?= models/jasper-dr

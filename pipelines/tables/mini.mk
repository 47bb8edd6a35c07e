# SCALE=mini: two hours of LibriSpeech, a pre-trained QuartzNet 15x5 as the teacher, students of a quarter of the
# paper's widths. On two cores about 15 minutes for a convolutional student.
#   CORPORA=dir         holds train-mini, dev-mini and test-mini (default: corpora);
#                       with LIBRISPEECH=dir they are prepared from the subsets of these names there
#   MODEL=dir           the teacher (default: models/quartznet); with CHECKPOINT=file it is imported from there
NOTE := Scale mini: two hours of LibriSpeech, a pre-trained QuartzNet 15x5 as the teacher, students of a quarter of the \
	paper's widths; lambda of CTC + SKD is 1 where a row does not say otherwise (the paper: 0.25). The paper's numbers are of 960 hours and full-size models.

TRAIN_SET := train-mini
DEV_SETS := dev-mini
EVAL_SETS := dev-mini test-mini
TABLES_DEVICE := $(DEVICE)

# 83 updates an epoch, 3,320 in all whatever the objective, those of RKD counted in.
KEYS := threads=2 data.dev=["corpus/dev-mini"] data.dev_every_epochs=5 data.batch_seconds=100.0 \
	data.spec_augment.freq_masks=2 data.spec_augment.freq_width=6 \
	data.spec_augment.time_masks=2 data.spec_augment.time_width=6 \
	optimizer.name=adamw optimizer.learning_rate=3e-3 optimizer.weight_decay=1e-3 optimizer.schedule.power=1.0 \
	checkpoint.select=last
# As at SCALE=demo: so few updates want more than the paper's 0.25.
LAMBDA := 1.0
# Weights that were best on dev-mini with a 3-gram of a few thousand sentences; the paper's 2.0 and 1.5 want a model of its size.
SEARCH ?= --beam 256 --lm-weight 0.5 --word-bonus 0.5
KEYS.cnn := student.width=0.25
KEYS.cnn.1 := stage.0.epochs=40
KEYS.cnn.2 := stage.0.epochs=10 stage.1.epochs=30
KEYS.rnn := student.preset=deepspeech2 student.width=0.25
KEYS.rnn.1 := $(KEYS.cnn.1)
KEYS.rnn.2 := $(KEYS.cnn.2)

MODEL ?= models/quartznet

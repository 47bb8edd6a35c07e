"""Speech, a teacher and its caches from tests/corpus, for the scripts beside this one. TUTORNET is the program."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "schemas"))

PIPELINE = """name = "teacher"
student = "jasper-nano"
[data]
train = [{corpus}]
[[stage]]
objective = "ctc"
max_updates = 20
[optimizer]
name = "adamw"
learning_rate = 0.003
"""


def run(*arguments):
    answer = subprocess.run([os.environ["TUTORNET"], *map(str, arguments)], capture_output=True, text=True)
    assert answer.returncode == 0, (arguments, answer.stdout, answer.stderr)
    return answer.stdout


def corpus(out, subset="dev-clean"):
    run("-q", "prep", "librispeech", ROOT / "tests/corpus/LibriSpeech", "--subset", subset, "--out", out, "--shard-utterances", 20)
    return out


def teacher(scratch):
    """A corpus of 42 utterances and a model that has heard a little of it."""
    made, pipeline = corpus(scratch / "corpus"), scratch / "teacher.toml"
    pipeline.write_text(PIPELINE.format(corpus=repr(str(made))))
    run("-q", "train", pipeline, "--out", scratch / "teacher", "--device", "cpu")
    return made, scratch / "teacher/student"


def cache(model, of, out, *more):
    run("-q", "cache", "--model", model, "--corpus", of, "--out", out, "--device", "cpu", *more)
    return out

"""A cache that schemas/write_cache.py has written of a model of our own: verified, inspected, read, and trained from.

TUTORNET is the program; the speech is tests/corpus, the model a random convolution in NumPy."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "schemas"))
from read_codecs import open_cache  # noqa: E402
from write_cache import write_cache  # noqa: E402

WIDTH = 48
PIPELINE = """name = "student of a foreign teacher"
student = "jasper-nano"
[data]
train = [{corpus}]
[[stage]]
objective = "rkd"
teacher = [{cache}]
max_updates = 3
[[stage]]
objective = "ctc+skd"
teacher = [{cache}]
max_updates = 3
[optimizer]
name = "adamw"
learning_rate = 0.003
"""


def run(*arguments):
    answer = subprocess.run([os.environ["TUTORNET"], *map(str, arguments)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


random = np.random.default_rng(1)
kernel = random.normal(size=(2 * 64, WIDTH)).astype("f4") / 8
head = random.normal(size=(WIDTH, 29)).astype("f4") / 4


def forward(features):
    pairs = np.pad(features, ((0, len(features) % 2), (0, 0))).reshape(-1, 2 * 64)
    hidden = np.maximum(pairs @ kernel, 0)
    return hidden, hidden @ head


with tempfile.TemporaryDirectory() as scratch:
    scratch = Path(scratch)
    corpus, cache = scratch / "corpus", scratch / "cache"
    run("-q", "prep", "librispeech", ROOT / "tests/corpus/LibriSpeech", "--subset", "dev-clean", "--out", corpus, "--shard-utterances", 20)
    write_cache(corpus, cache, forward, "random", "ab" * 32, WIDTH)
    run("-q", "verify", cache)
    assert "42" in run("inspect", cache)
    count = 0
    for name, hidden in open_cache(cache):
        count += 1
        assert hidden.shape[1] == WIDTH and (hidden >= 0).all() and hidden.any(), name
    assert count == 42, count
    pipeline = scratch / "student.toml"
    pipeline.write_text(PIPELINE.format(corpus=repr(str(corpus)), cache=repr(str(cache))))
    run("-q", "train", pipeline, "--out", scratch / "run", "--device", "cpu")
    run("-q", "verify", scratch / "run")
    run("-q", "cache", "recode", cache, "--codec", "klt:0.2", "--out", scratch / "small")
    print(f"write_cache.py: {count} utterances verified, trained from, recoded")
    # What it wrote is checked: a changed byte does not pass.
    shard = cache / "shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    answer = subprocess.run([os.environ["TUTORNET"], "-q", "verify", str(cache)], capture_output=True, text=True)
    assert answer.returncode == 1 and "shard-00001" in answer.stdout + answer.stderr, answer

"""A cache that schemas/write_cache.py has written of a model of somebody else's: verified, read, merged, added to, and trained from.

TUTORNET is the program, the speech is tests/corpus. The model is a random convolution in NumPy; with --torch (`make test-torch`)
a CTC model in PyTorch that has been trained on it."""

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
from blake3 import blake3
from made import corpus, run
from read_codecs import f16, open_cache
from write_cache import write_cache  # that of schemas/, which `made` has put first

WIDTH = 48
LABELS = " abcdefghijklmnopqrstuvwxyz'"
PIPELINE = """name = "student of a foreign teacher"
student = "jasper-nano"
[data]
train = [{corpus}, {other}]
[[stage]]
objective = "rkd"
teacher = [{cache}]
max_updates = 3
[[stage]]
objective = "ctc+skd"
teacher = [{cache}]
max_updates = 3
[[stage]]
objective = "ctc+sequence"
teacher = [{cache}]
max_updates = 3
[optimizer]
name = "adamw"
learning_rate = 0.003
"""


def of_numpy(_):
    random = np.random.default_rng(1)
    kernel = random.normal(size=(2 * 64, WIDTH)).astype("f4") / 8
    head = random.normal(size=(WIDTH, 29)).astype("f4") / 4

    def forward(features):
        pairs = np.pad(features, ((0, len(features) % 2), (0, 0))).reshape(-1, 2 * 64)
        hidden = np.maximum(pairs @ kernel, 0)
        return hidden, hidden @ head

    return forward, "ab" * 32


def of_torch(made):
    """A small convolutional CTC model, trained until its loss has fallen."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(2)
    body = torch.nn.Sequential(
        torch.nn.Conv1d(64, 64, 11, stride=2, padding=5), torch.nn.ReLU(), torch.nn.Conv1d(64, WIDTH, 11, padding=5), torch.nn.ReLU()
    )
    head = torch.nn.Linear(WIDTH, 29)
    model = torch.nn.ModuleDict({"body": body, "head": head})

    def forward(features):
        hidden = body(torch.from_numpy(features.copy()).T[None])[0].T
        return hidden, head(hidden)

    rows = [row for shard in sorted(made.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    update = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(4):
        for row in rows:
            _, logits = forward(np.frombuffer(row["features"], "<f4").reshape(row["frames"], -1))
            target = torch.tensor([[LABELS.index(c) for c in row["text"]]])
            lengths = (torch.tensor([len(logits)]), torch.tensor([target.shape[1]]))
            loss = torch.nn.functional.ctc_loss(logits.log_softmax(1)[:, None], target, *lengths, blank=28)
            losses.append(loss.item())
            update.zero_grad()
            loss.backward()
            update.step()
    first, last = np.mean(losses[: len(rows)]), np.mean(losses[-len(rows) :])
    assert last < 0.8 * first, (first, last)
    print(f"PyTorch {torch.__version__}: CTC loss from {first:.2f} to {last:.2f}")

    def infer(features):
        with torch.no_grad():
            hidden, logits = forward(features)
        return hidden.numpy(), logits.numpy()

    weights = io.BytesIO()
    torch.save(model.state_dict(), weights)
    return infer, blake3(weights.getvalue()).hexdigest()


def equal(cache, made, forward):
    """What polars, DuckDB and our own reader find in the cache is what the model says."""
    rows = [row for shard in sorted(made.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    said = {row["utterance"]: forward(np.frombuffer(row["features"], "<f4").reshape(row["frames"], -1)) for row in rows}
    shards = f"{cache}/shard-*.parquet"
    columns = ["utterance", "frames", "hidden", "frame_weight", "posterior"]
    for found in (
        pl.scan_parquet(shards).select(columns).collect().rows(),
        duckdb.execute(f"SELECT {', '.join(columns)} FROM read_parquet($shards)", {"shards": shards}).fetchall(),
    ):
        assert len(found) == len(said)
        for name, frames, states, weight, log_p in found:
            hidden, logits = said[name]
            assert np.array_equal(f16(states, frames, WIDTH), hidden.astype("f2").astype("f4")), name
            expected = 1 / (1 + np.exp(-hidden.mean(1, dtype="f8")))
            assert np.allclose(np.frombuffer(weight, "<f4"), expected, atol=1e-6)
            z = logits.astype("f8")
            expected = z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
            assert np.allclose(np.frombuffer(log_p, "<f2").reshape(frames, -1), expected, rtol=1e-3, atol=1e-3)
    for name, hidden in open_cache(cache):
        assert np.array_equal(hidden, said[name][0].astype("f2").astype("f4"))
    return len(said)


with tempfile.TemporaryDirectory() as scratch:
    scratch = Path(scratch)
    made, other = corpus(scratch / "corpus"), corpus(scratch / "other", "test-clean")
    forward, weights = (of_torch if "--torch" in sys.argv else of_numpy)(made)

    def refused(words, *arguments):
        try:
            write_cache(made, scratch / "refused", *arguments)
        except (AssertionError, ValueError) as error:
            assert words in str(error), error
        else:
            raise SystemExit(f"write_cache takes what is wrong: {words}")

    refused("64 hexadecimal digits", forward, "theirs", "ab", WIDTH)
    refused("expected hidden and logits of shapes", lambda features: (forward(features)[0], forward(features)[1][1:]), "theirs", weights, WIDTH)
    write_cache(made, scratch / "refused", forward, "theirs", weights, WIDTH)
    run("-q", "verify", scratch / "refused")
    refused("is a complete cache", forward, "theirs", weights, WIDTH)
    caches = []
    for number, speech in enumerate((made, other)):
        caches.append(scratch / f"cache-{number}")
        write_cache(speech, caches[-1], forward, "theirs", weights, WIDTH)
        run("-q", "verify", caches[-1])
        count = equal(caches[-1], speech, forward)
        assert str(count) in run("inspect", caches[-1])
    run("-q", "cache", "merge", *caches, "--out", scratch / "both")
    run("-q", "cache", "add", scratch / "both", "--nbest", 2, "--beam", 8)
    run("-q", "verify", scratch / "both")
    pipeline = scratch / "student.toml"
    names = {"corpus": made, "other": other, "cache": scratch / "both"}
    pipeline.write_text(PIPELINE.format(**{key: repr(str(path)) for key, path in names.items()}))
    run("-q", "train", pipeline, "--out", scratch / "run", "--device", "cpu")
    run("-q", "verify", scratch / "run")
    run("-q", "cache", "recode", caches[0], "--codec", "klt:0.2", "--out", scratch / "small")
    print("write_cache.py: verified, read by polars and DuckDB, merged, texts added, trained from, recoded")
    # What it wrote is checked: a changed byte does not pass.
    shard = caches[0] / "shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    answer = subprocess.run([os.environ["TUTORNET"], "-q", "verify", str(caches[0])], capture_output=True, text=True)
    assert answer.returncode == 1 and "shard-00001" in answer.stdout + answer.stderr, answer

"""Reads caches as schemas/README.md tells others to: the snippet on that page, run as it stands.

TUTORNET is the program; TUTORNET_SHARED the data beside the repository (else ../shared)."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TUTORNET_SHARED", ROOT / "../shared")) / "data"


def snippet():
    page = (ROOT / "schemas/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.S).group(1)
    lines = code.splitlines()
    assert len(lines) <= 12, f"{len(lines)} lines"
    imported = set(re.findall(r"[\w.]+", lines[0].removeprefix("import "))) - {"as", "np", "pq"}
    assert imported == {"json", "sys", "numpy", "pyarrow.parquet"}, imported
    return code


def read(scratch, shard, name, hidden, logits):
    """Runs the snippet; fails unless it finds all three columns equal."""
    out = scratch / "out.npz"
    answer = subprocess.run([sys.executable, "-c", snippet(), str(shard), name, str(out)], capture_output=True, text=True)
    assert answer.returncode == 0, (answer.stdout, answer.stderr)
    found, h, z = np.load(out), hidden.astype("f4"), logits.astype("f4")
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert [found[k].dtype.str for k in ("hidden", "frame_weight", "log_p")] == ["<f2", "<f4", "<f2"]
    return [
        np.allclose(a.astype("f4"), b, 2e-3, 2e-3)
        for a, b in ((found["hidden"], h), (found["frame_weight"], 1 / (1 + np.exp(-h.mean(1)))), (np.exp(found["log_p"].astype("f4")), p))
    ]


def made_up(utterance, frames, columns, first):
    """The numbers of tests/it/golden_cache.rs."""
    t, c = np.mgrid[0:frames, first : first + columns].astype(np.uint64)
    mixed = (np.uint64(utterance * 7919 + 12345) + t * np.uint64(104729) + c * np.uint64(1299709)) * np.uint64(2654435761)
    return (mixed >> np.uint64(24) & np.uint64(0xFF)).astype("f4")


def golden_cache(scratch):
    at = 0
    for shard in sorted((ROOT / "tests/golden/cache").glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            name, frames = row["utterance"], row["frames"]
            hidden = made_up(at, frames, 20, 0)
            hidden = np.where(hidden < 128, 0, (hidden - 128) / 32)
            logits = made_up(at, frames, 29, 1000) / 16 - 8
            assert read(scratch, shard, name, hidden, logits) == [True, True, True], name
            softmax = np.frombuffer(row["softmax"], "<f2").reshape(frames, 29).astype("f4")
            expected = np.exp(logits / 2)
            assert np.allclose(softmax, expected / expected.sum(1, keepdims=True), atol=1e-3)
            # The comparison can fail: another utterance's values do not pass.
            assert not read(scratch, shard, name, hidden[::-1], logits)[0], "the test takes wrong values for right ones"
            at += 1
    assert at == 3, at
    print("golden cache: 3 utterances read")


def real_cache(scratch):
    if not SHARED.is_dir():
        print("not run: a cache of real speech (no ../shared/data)")
        return
    program = os.environ["TUTORNET"]

    def run(*arguments):
        subprocess.run([program, "-q", *map(str, arguments)], check=True)

    golden = SHARED / "quartznet15x5-en.golden.safetensors"
    run("import", SHARED / "quartznet15x5-en.nemo", "--out", scratch / "model")
    run("prep", "librispeech", SHARED / "LibriSpeech", "--subset", "dev-mini", "--out", scratch / "corpus")
    run("cache", "--model", scratch / "model", "--corpus", scratch / "corpus", "--out", scratch / "cache", "--device", "cpu")
    data = golden.read_bytes()
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    names = sorted({key.rsplit(".", 1)[0] for key in head if key.endswith(".hidden")})

    def tensor(key, kind):
        about = head[key]
        start, end = (8 + int.from_bytes(data[:8], "little") + at for at in about["data_offsets"])
        return np.frombuffer(data[start:end], kind).reshape(about["shape"])

    for name in names:
        hidden, logits = tensor(f"{name}.hidden", "<f2"), tensor(f"{name}.logits", "<f4")
        assert read(scratch, scratch / "cache/shard-00000.parquet", name, hidden, logits) == [True, True, True], name
    print("QuartzNet over dev-mini:", ", ".join(names), "equal PyTorch's values")


with tempfile.TemporaryDirectory() as scratch:
    golden_cache(Path(scratch))
    real_cache(Path(scratch))

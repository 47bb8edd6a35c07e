"""The programs on schemas/recipes.md, run as they stand, and what they print."""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from made import ROOT, cache, run, teacher
from read_codecs import open_cache


def recipes():
    page = (ROOT / "schemas/recipes.md").read_text()
    found = re.findall(r"## ([^\n]*)\n|```python\n(.*?)```", page, re.S)
    named, heading = [], None
    for title, code in found:
        heading = title or heading
        if code:
            named.append((heading, code))
    return named


def prints(code, directory):
    answer = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


with tempfile.TemporaryDirectory() as scratch:
    scratch = Path(scratch)
    corpus, model = teacher(scratch)
    made = cache(model, corpus, scratch / "cache", "--nbest", 2, "--beam", 8)
    rows = [row for shard in sorted(made.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    weights = {row["utterance"]: float(np.frombuffer(row["frame_weight"], "<f4").mean()) for row in rows}
    hidden = dict(open_cache(made))
    for kind in ("arrow", "npy", "safetensors"):
        run("-q", "cache", "export", made, "--format", kind, "--out", scratch / kind)

    (_, arrow), (_, polars), (_, duckdb), (_, nbest), (_, feather), (_, files) = recipes()
    longest = max(rows, key=lambda row: row["samples"])
    expected = [len(rows), sum(row["frames"] for row in rows), longest["utterance"], longest["samples"] / 16000]
    assert prints(arrow, made) == [" ".join(map(str, expected))]

    heard = [line.split(" ", 1) for line in prints(polars, made)]
    assert [name for name, _ in heard] == [row["utterance"] for row in rows[:3]]
    symbols = " abcdefghijklmnopqrstuvwxyz'"
    for (_, text), row in zip(heard, rows):
        log_p = np.frombuffer(row["posterior"], "<f2").reshape(row["frames"], 29)
        best = [label for label, _ in itertools.groupby(int(frame.argmax()) for frame in log_p)]
        assert text == "".join(symbols[label] for label in best if label < 28) != "", text

    lines = prints(duckdb, made)
    speakers = sorted({row["utterance"].split("-")[0] for row in rows})
    for line, speaker in zip(lines, speakers):
        own = [row for row in rows if row["utterance"].split("-")[0] == speaker]
        sums = [sum(row["frames"] for row in own), sum(len(row["posterior"]) for row in own)]
        assert line == " ".join(map(str, [speaker, len(own), *sums])), line
    assert len(lines) == len(speakers) + 3
    for line in lines[len(speakers) :]:
        name, mean = line.split()
        assert abs(float(mean) - weights[name]) < 1e-6

    texts = [json.loads(row["nbest"]) for row in rows]
    close = sum(len(best) > 1 and best[1]["log_p"] > best[0]["log_p"] - np.log(2) for best in texts)
    assert prints(nbest, made) == [f"{len(rows)} {close}"]

    first = rows[0]["utterance"]
    (line,) = prints(feather, scratch / "arrow")
    assert line.startswith(f"{first} {hidden[first].shape} float16 "), line
    assert abs(float(line.split()[-1]) - hidden[first][0].astype("f8").sum()) < 1e-6
    for kind in ("npy", "safetensors"):
        for line, row in zip(prints(files, scratch / kind), rows, strict=False):
            name, shape, mean = line.split(" ", 1)[0], hidden[row["utterance"]].shape, float(line.split()[-1])
            assert line.startswith(f"{row['utterance']} {shape} float16 ") and abs(mean - weights[name]) < 1e-6, line
    print("recipes: pyarrow, polars, DuckDB, N best, Arrow, .npy and .safetensors say what the cache says")

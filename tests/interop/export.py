"""Exports of a cache, read by numpy, pyarrow, polars and safetensors, against schemas/read_codecs.py and the raw columns."""

import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from made import cache, run, teacher
from read_codecs import open_cache
from safetensors import safe_open


def arrow(directory):
    for shard in sorted(directory.glob("shard-*.arrow")):
        table = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
        also = pl.read_ipc(shard)
        assert also["utterance"].to_list() == table["utterance"].to_pylist()
        for at in range(len(table)):
            row = {column: table[column][at] for column in table.column_names}
            frames = row["frames"].as_py()
            numbers = {}
            for column, value in row.items():
                if pa.types.is_list(value.type):
                    values = value.values.flatten() if pa.types.is_fixed_size_list(value.values.type) else value.values
                    numbers[column] = values.to_numpy(zero_copy_only=False).reshape(frames, -1)
                    assert np.array_equal(also[column][at].to_numpy().reshape(frames, -1), numbers[column])
            yield row["utterance"].as_py(), numbers | {"nbest": row["nbest"].as_py(), "about": row}


def npy(directory):
    for line in map(json.loads, (directory / "index.jsonl").read_text().splitlines()):
        files = {column: directory / path for column, path in line["files"].items()}
        numbers = {column: np.load(path) for column, path in files.items() if path.suffix == ".npy"}
        yield line["utterance"], numbers | {"nbest": files["nbest"].read_text(), "about": line}


def tensors(directory):
    for line in map(json.loads, (directory / "index.jsonl").read_text().splitlines()):
        with safe_open(directory / line["file"], "np") as file:
            about = json.loads(file.metadata()["tutornet"])
            numbers = {column: file.get_tensor(column) for column in file.keys()}
        assert about["audio_hash"] == line["audio_hash"]
        yield line["utterance"], numbers | {"nbest": about["nbest"], "about": line}


with tempfile.TemporaryDirectory() as scratch:
    scratch = Path(scratch)
    corpus, model = teacher(scratch)
    for codec in ("f16", "klt:0.05"):
        made = cache(model, corpus, scratch / codec, "--codec", codec, "--layers", 1, "--nbest", 2, "--beam", 8, "--temperature", 2)
        rows = {row["utterance"]: row for shard in sorted(made.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()}
        exact = {column: dict(open_cache(made, layer)) for column, layer in (("hidden", "last"), ("hidden_1", 1))}
        for kind, reader in (("arrow", arrow), ("npy", npy), ("safetensors", tensors)):
            for dtype in ("f16", "f32"):
                out = scratch / f"{codec}-{kind}-{dtype}"
                run("-q", "cache", "export", made, "--format", kind, "--dtype", dtype, "--out", out)
                count = 0
                for name, found in reader(out):
                    row = rows[name]
                    for column in ("hidden", "hidden_1"):
                        expected = exact[column][name]
                        assert found[column].dtype == np.dtype(dtype.replace("f16", "f2").replace("f32", "f4"))
                        assert found[column].shape == expected.shape
                        # NumPy turns klt back in another order of sums, half precision rounds.
                        off = 0 if codec == "f16" else (2e-3 if dtype == "f16" else 2e-5)
                        assert np.allclose(found[column].astype("f4"), expected, rtol=off, atol=off), (codec, kind, dtype, name)
                    for column in ("frame_weight", "frame_weight_1"):
                        assert np.array_equal(found[column].ravel(), np.frombuffer(row[column], "<f4"))
                    for column in ("posterior", "softmax"):
                        assert np.array_equal(found[column].astype("f2").ravel(), np.frombuffer(row[column], "<f2"))
                    assert json.loads(found["nbest"]) == json.loads(row["nbest"])
                    count += 1
                assert count == len(rows) == 42
    print("exports: Arrow, .npy and .safetensors in f16 and f32 hold what the cache holds")

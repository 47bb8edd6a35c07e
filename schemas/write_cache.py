"""Writes a cache of any CTC model, so that `tutornet train` learns from it (cache.md says what every part means).

    from write_cache import write_cache
    write_cache("corpora/clean-100", "caches/mine/clean-100", forward, "my-model", weights_hash, hidden_width=512)

`forward` takes the features of an utterance, f4 [frames, 64], and returns NumPy arrays: hidden [n, width] and logits [n, labels],
n = ceil(frames / stride), the student's stride; with PyTorch, under torch.no_grad(), `model(torch.from_numpy(features)[None])` and
`.numpy()` of what it gives. `weights_hash`: 64 hexadecimal digits, others for other weights. Needs NumPy, pyarrow, blake3, xxhash."""

import json
import struct
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from xxhash import xxh3_64_intdigest, xxh3_128_digest

PART, ENGLISH = 131072, [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def seal(text):
    return f"{text}# blake3 {blake3(text.encode()).hexdigest()}\n"


def f16(hidden):
    """The exact codec: bits of what is not zero (each frame XORed with the one before), high bytes, low bytes."""
    halves = np.ascontiguousarray(hidden, "<f2").view("<u2")
    on = halves != 0
    bits = np.packbits(on, axis=1, bitorder="little")
    bits[1:] ^= bits[:-1].copy()
    parts = [bits.tobytes(), (halves[on] >> 8).astype("u1").tobytes(), halves[on].astype("u1").tobytes()]
    return b"".join(part + bytes(-len(part) % PART) for part in parts)


def write_cache(corpus, out, forward, name, weights_hash, hidden_width, stride=2, labels=ENGLISH, blank=28):
    corpus, out = Path(corpus), Path(out)
    assert len(bytes.fromhex(weights_hash)) == 32, f"weights_hash: expected 64 hexadecimal digits, found {weights_hash}"
    assert not (out / "manifest.toml").exists(), f"{out} is a complete cache: give another directory"
    text = (corpus / "corpus.toml").read_text()
    about, quoted = tomllib.loads(text), json.dumps
    frontend = "".join(f"{key} = {quoted(value)}\n" for key, value in about["frontend"].items())
    identity = seal(f'format = "tutornet-cache"\nversion = 1\nwriter = 1\ncodec = "f16"\nstride = {stride}\nlayer = "last"\n'
        f'hidden_width = {hidden_width}\nprecision = "f32"\n\n[teacher]\nname = {quoted(name)}\nhash = {quoted(weights_hash)}\n\n'
        f'[corpus]\nhash = {quoted(text.split()[-1])}\n\n[frontend]\n{frontend}\n[labels]\nsymbols = {quoted(labels)}\nblank = {blank}\n')
    out.mkdir(parents=True, exist_ok=(out / "cache.toml").exists())  # what a failed call has left is replaced
    (out / "cache.toml").write_text(identity)
    cache = blake3(identity.encode()).hexdigest()
    symbols = [*labels[:blank], None, *labels[blank:]]
    metadata = {"kind": "cache", "version": 1, "cache": cache, "codec": "f16", "width": hidden_width, "stride": stride,
        "labels": quoted(symbols)}
    small = [("utterance", pa.string()), ("samples", pa.uint64()), ("audio_hash", pa.binary(16)), ("frames", pa.uint32())]
    fields = [*small, *((column, pa.binary()) for column in ("hidden", "frame_weight", "posterior")), ("checksum", pa.binary(48))]
    schema = pa.schema([pa.field(key, kind, False) for key, kind in fields], {f"tutornet.{k}": str(v) for k, v in metadata.items()})
    entries, utterances, total = "", 0, 0
    for shard in about["shards"]:
        rows = []
        for row in pq.read_table(corpus / shard["file"]).to_pylist():
            hidden, logits = forward(np.frombuffer(row["features"], "<f4").reshape(row["frames"], 64))
            found, shapes = [hidden.shape, logits.shape], [(-(-row["frames"] // stride), n) for n in (hidden_width, len(symbols))]
            assert found == shapes, f"{row['utterance']}: expected hidden and logits of shapes {shapes}, found {found}"
            frames, z = len(hidden), logits.astype("f8") - logits.max(1, keepdims=True)
            assert np.isfinite(hidden.astype("f2")).all() and np.isfinite(z).all(), f"{row['utterance']}: not finite"
            weight = 1 / (1 + np.exp(-hidden.mean(1, dtype="f8")))
            log_p = np.maximum(z - np.log(np.exp(z).sum(1, keepdims=True)), -65504)
            values = [f16(hidden), weight.astype("<f4").tobytes(), log_p.astype("<f2").tobytes()]
            key = struct.pack("<QI", row["samples"], frames) + row["audio_hash"] + row["utterance"].encode()
            checksum = b"".join(xxh3_128_digest(value, xxh3_64_intdigest(key)) for value in values)
            rows.append([row["utterance"], row["samples"], row["audio_hash"], frames, *values, checksum])
        table = pa.table([pa.array(column, kind.type) for column, kind in zip(zip(*rows), schema)], schema)
        # One value on one page, found through the offset index; 64 rows a group.
        pq.write_table(table, out / shard["file"], compression="zstd", compression_level=1, use_dictionary=False, row_group_size=64,
            write_statistics=False, data_page_size=1, write_batch_size=1, write_page_index=True)
        data, frames = (out / shard["file"]).read_bytes(), sum(row[3] for row in rows)
        utterances, total = utterances + len(rows), total + frames
        entries += (f'\n[[shards]]\nfile = {quoted(shard["file"])}\nrows = {len(rows)}\nframes = {frames}\nbytes = {len(data)}\n'
            f'blake3 = "{blake3(data).hexdigest()}"\n')
    (out / "manifest.toml").write_text(seal(f'identity = "{cache}"\nutterances = {utterances}\nframes = {total}\n{entries}'))

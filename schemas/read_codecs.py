"""Hidden states of a cache in NumPy, whatever their codec (cache.md, "Codec .."): for other programs to start from.

    from read_codecs import open_cache
    for name, hidden in open_cache("caches/quartznet/clean-100"): ...      # hidden: f4 [frames, width]

Needs NumPy and pyarrow. It reads klt value by value, about 0.3 million a second: a reference, not a fast reader."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

PART, BLOCK, TOTAL, LOW = 131072, 8, 2048, 65536


def aligned(size):
    return -(-size // PART) * PART


def bits(raw, frames, width):
    rows = np.frombuffer(raw, "u1", frames * -(-width // 8)).reshape(frames, -(-width // 8))
    return np.unpackbits(np.bitwise_xor.accumulate(rows, axis=0), axis=1, count=width, bitorder="little").astype(bool)


def f16(raw, frames, width):
    on = bits(raw, frames, width)
    at = aligned(frames * -(-width // 8))
    high, low = np.split(np.frombuffer(raw, "u1")[at:].astype("<u2"), 2)
    hidden = np.zeros((frames, width), "<u2")
    hidden[on] = (high << 8 | low)[: on.sum()]
    return hidden.view("<f2").astype("f4")


def u8(raw, frames, width):
    scale, zero = np.frombuffer(raw, "<f4", width), np.frombuffer(raw, "u1", width, 4 * width).astype("f4")
    at = aligned(5 * width)
    on = bits(raw[at:], frames, width)
    at += aligned(frames * -(-width // 8))
    codes = np.broadcast_to(zero, (frames, width)).copy()
    codes[on] = np.frombuffer(raw, "u1", on.sum(), at)
    return (codes - zero) * scale


def pq_codes(raw, frames, model, layer):
    centroids = model[f"{layer}.centroids"]
    codes = np.frombuffer(raw, "u1").reshape(frames, len(centroids))
    picked = np.stack([centroids[g, codes[:, g]] for g in range(codes.shape[1])])    # [groups, frames, dimensions]
    return picked.transpose(1, 2, 0).reshape(frames, centroids.shape[0] * centroids.shape[2])


def rans(raw, classes, frequencies, count):
    """The integers of classes[i], one after the other; `count` states in turn."""
    words = int(np.frombuffer(raw, "<u4", 1)[0])
    states = [int(s) for s in np.frombuffer(raw, "<u4", count, 4)]
    stream = iter(np.frombuffer(raw, "<u2", words, 4 + 4 * count).tolist())
    escaped = iter(np.frombuffer(raw, "<i2", -1, 4 + 4 * count + 2 * words).tolist())
    symbols = [np.repeat(np.arange(len(f)), f).tolist() for f in frequencies]
    starts = (np.cumsum(frequencies, axis=1) - frequencies).tolist()
    values = np.empty(len(classes), "i8")
    for i, c in enumerate(classes.tolist()):
        state = states[i % count]
        slot = state % TOTAL
        symbol = symbols[c][slot]
        state = int(frequencies[c][symbol]) * (state // TOTAL) + slot - starts[c][symbol]
        states[i % count] = state if state >= LOW else state * 65536 + next(stream)
        values[i] = next(escaped) if symbol == 0 else (symbol // 2 if symbol % 2 else -(symbol // 2))
    assert states == [LOW] * count and next(stream, None) is None and next(escaped, None) is None
    return values


def klt(raw, frames, model, layer):
    classes, rank = model[f"{layer}.classes"], model[f"{layer}.basis"].shape[1]
    lengths = [min(BLOCK, frames - start) for start in range(0, frames, BLOCK)]
    of = [classes[8 * k // n] for n in lengths for k in range(n)]
    q = rans(raw, np.concatenate(of) if of else np.empty(0, "u1"), model[f"{layer}.frequencies"].astype("i8"), model["states"])
    one, more = model[f"{layer}.lift"]
    y = np.sign(q) * (np.abs(q) + np.where(np.abs(q) == 1, one, more)) * model[f"{layer}.step"]
    y, at = y.reshape(frames, rank), 0
    for n in lengths:
        k, t = np.mgrid[:n, :n]
        cosine = np.sqrt(np.where(k == 0, 1, 2) / n) * np.cos(np.pi * (t + 0.5) * k / n)
        y[at : at + n] = cosine.T @ y[at : at + n]
        at += n
    return y


def safetensors(path):
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    kinds = {"F32": "<f4", "U8": "u1", "U16": "<u2"}
    head = json.loads(data[8:start])
    about = tomllib.loads(head.pop("__metadata__")["tutornet.codec"])
    view = lambda v: np.frombuffer(data[start:][slice(*v["data_offsets"])], kinds[v["dtype"]]).reshape(v["shape"])
    return {"states": about.get("states", 8), **{name: view(v) for name, v in head.items()}}


def decode(raw, frames, width, codec, model, layer="last"):
    name = codec.split(":")[0]
    if name in ("f16", "u8"):
        return (f16 if name == "f16" else u8)(raw, frames, width)
    y = (klt if name == "klt" else pq_codes)(raw, frames, model, layer)
    return np.maximum(y @ model[f"{layer}.basis"].T + model[f"{layer}.mean"], model[f"{layer}.floor"]).astype("f4")


def open_cache(cache, layer="last"):
    identity = tomllib.loads((Path(cache) / "cache.toml").read_text())
    model = safetensors(Path(cache) / "codec.safetensors") if "codec_model" in identity else None
    inner = {str(inner["layer"]): inner["width"] for inner in identity.get("layers", [])}
    column, width = ("hidden", identity["hidden_width"]) if layer == "last" else (f"hidden_{layer}", inner[str(layer)])
    for shard in sorted(Path(cache).glob("shard-*.parquet")):
        for row in pq.read_table(shard, columns=["utterance", "frames", column]).to_pylist():
            yield row["utterance"], decode(row[column], row["frames"], width, identity["codec"], model, layer)

"""Every codec, decoded by schemas/read_codecs.py from what schemas/cache.md says, against the exact hidden states.

TUTORNET is the program; speech and teacher are made from tests/corpus."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
from made import ROOT, cache, teacher
from read_codecs import open_cache


FRAMES = [0, 1, 5, 21, 330]


def golden(codec):
    """The committed cache of a codec gives the values that were kept of it (tests/it/golden_codecs.rs)."""
    layers = [list(open_cache(ROOT / "tests/golden/codecs" / codec, layer)) for layer in ("last", 1)]
    assert [len(hidden) for _, hidden in layers[0]] == FRAMES
    kept = [layer[at][1][:: 16 if frames > 100 else 1].ravel() for at, frames in enumerate(FRAMES) for layer in layers]
    expected = np.fromfile(ROOT / f"tests/golden/codecs/{codec}.values", "<f4")
    assert np.allclose(np.concatenate(kept), expected, rtol=1e-4, atol=1e-4), codec


def relative(found, exact):
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


for codec in ("u8", "klt-8-states", "klt", "pq"):
    golden(codec)
print("golden caches of u8, klt (in both forms) and pq: read")
with tempfile.TemporaryDirectory() as scratch:
    scratch = Path(scratch)
    corpus, model = teacher(scratch)
    for codec, low, high in [("f16", 0, 0), ("u8", 1e-4, 0.008), ("klt:0.1", 0.05, 0.1), ("klt:0.02", 0.01, 0.02), ("pq:16", 0.01, 0.7)]:
        out = cache(model, corpus, scratch / codec.replace(":", "-"), "--codec", codec, "--layers", 2)
        for layer in ("last", 2):
            exact = open_cache(scratch / "f16", layer)
            pairs = list(itertools.islice(zip(open_cache(out, layer), exact), 6))
            assert all(found[0] == true[0] and found[1].shape == true[1].shape for found, true in pairs)
            assert all(found[1].dtype == np.float32 for found, _ in pairs), codec
            error = relative(*(np.concatenate([pair[side][1] for pair in pairs]) for side in (0, 1)))
            assert low <= error <= high, (codec, layer, error)
            print(f"{codec}, layer {layer}: {len(pairs)} utterances, relative error {error:.4f}")

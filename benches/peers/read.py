"""Reading a cache: ours beside the zstd library alone, pyarrow on our shards, and what else people keep tensors in.

Every reader is a process that has opened its files and read them once; readers of one group take turns, round after round,
each for a moment over all utterances in an order of its own, from a warm page cache. One thread, then two (two threads of
ours, two processes of a Python reader). What counts is decoded values as f16, 2 bytes each, over processor time ("a core")
and over the clock. Before anything is timed, what each reader gives is compared with what ours gives.

Run it by `make bench-read`. CACHES: an exact cache and others that `tutornet cache recode` made of it. The other formats are
written from the exact one into a temporary directory (about twice its size), which is removed again."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from read_formats import READERS, read_codecs, write_formats


def worker(kind, path, limit):
    reader = READERS[kind](path, limit)
    for index in range(len(reader.frames)):
        reader.read(index)
        if kind == "Arrow" and index > 4 or kind == "ArrowDecoded" and index > 2:
            break
    print(json.dumps({"utterances": len(reader.frames)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "dump":
            np.save(request["path"], np.asarray(reader.read(request["index"])))
            print("{}", flush=True)
            continue
        order = np.random.default_rng(request["seed"]).permutation(len(reader.frames))
        rows = getattr(reader, "rows", [1] * len(order))
        start, begun, done, frames, utterances = time.perf_counter(), time.process_time(), 0, 0, 0
        while time.perf_counter() - start < request["seconds"]:
            index = int(order[done % len(order)])
            reader.read(index)
            frames += reader.frames[index]
            utterances += rows[index]
            done += 1
        wall, cpu = time.perf_counter() - start, time.process_time() - begun
        print(json.dumps({"wall": wall, "cpu": cpu, "utterances": utterances, "frames": frames}), flush=True)


# ---------------------------------------------------------------------------------------------
# The bench.
# ---------------------------------------------------------------------------------------------
class Process:
    def __init__(self, command):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def send(self, **request):
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()

    def receive(self):
        line = self.child.stdout.readline()
        if not line:
            sys.exit(f"a reader ended: {self.child.args}")
        return json.loads(line)

    def close(self):
        self.child.stdin.close()
        self.child.wait()


class Ours:
    """Our program on one cache; `what` is decode, whole, coordinates, raw or zstd."""

    def __init__(self, name, process, what):
        self.name, self.process, self.what = name, process, what

    def run(self, threads, seconds, seed):
        self.process.send(op="run", what=self.what, threads=threads, seconds=seconds, seed=seed)
        return self.process.receive()


class Peer:
    def __init__(self, name, kind, path, limit):
        self.name = name
        command = [sys.executable, __file__, "--worker", kind, "--path", str(path), "--limit", str(limit)]
        self.processes = [Process(command) for _ in range(2)]
        for process in self.processes:
            process.receive()

    def run(self, threads, seconds, seed):
        for number, process in enumerate(self.processes[:threads]):
            process.send(op="run", seconds=seconds, seed=seed * 64 + number)
        parts = [process.receive() for process in self.processes[:threads]]
        return {"wall": max(p["wall"] for p in parts), **{k: sum(p[k] for p in parts) for k in ("cpu", "utterances", "frames")}}

    def dump(self, index, path):
        self.processes[0].send(op="dump", index=index, path=str(path))
        self.processes[0].receive()
        return np.load(path)

    def close(self):
        for process in self.processes:
            process.close()


def measure(readers, width, arguments, out):
    """Median rates of readers that take turns."""
    rates = {}
    for threads in (1, 2):
        for number in range(arguments.rounds):
            for reader in readers:
                r = reader.run(threads, arguments.seconds, 1000 * threads + number)
                gigabytes = 2e-9 * width * r["frames"]
                per_core = gigabytes / r["cpu"] if r["cpu"] else 0.0
                rates.setdefault((reader.name, threads), []).append(
                    (per_core, gigabytes / r["wall"], r["utterances"] / r["wall"], r["utterances"] / r["cpu"]))
    for reader in readers:
        row = [reader.name]
        for threads in (1, 2):
            row.append([statistics.median(column) for column in zip(*rates[reader.name, threads])])
        out.append(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", choices=READERS)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--ours", help="the bench program")
    parser.add_argument("--caches", type=Path, nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=1 << 30, help="utterances, the first of each cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--scratch", help="directory for the temporary one")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.path, arguments.limit)

    import tomllib

    codec = {path: tomllib.loads((path / "cache.toml").read_text())["codec"] for path in arguments.caches}
    exact = [path for path in arguments.caches if codec[path] == "f16"]
    if not exact:
        sys.exit("bench-read: expected an exact cache (codec f16) among CACHES")
    table = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory:
        directory = Path(directory)
        print("writing the other formats ..", file=sys.stderr)
        write_formats(exact[0], arguments.limit, directory)
        truth = list(json.loads((directory / "index.json").read_text())["frames"])
        picks = sorted({0, len(truth) // 2, len(truth) - 1, truth.index(min(truth))})
        width, expected = 0, {}
        for path in arguments.caches:
            print(f"{path} ..", file=sys.stderr)
            program = Process([arguments.ours])
            program.send(op="open", cache=str(path), limit=arguments.limit)
            opened = program.receive()
            width = opened["width"]
            name = codec[path]
            learned = read_codecs.safetensors(path / "codec.safetensors") if ":" in name else None
            readers = [Ours(f"ours, {name}", program, "decode"), Ours(f"ours, {name}, one array", program, "whole"),
                       Ours(f"ours, {name}, checked payload", program, "raw"),
                       Ours(f"zstd library, {name}", program, "zstd")]
            if learned:
                readers.insert(1, Ours(f"ours, {name}, coordinates", program, "coordinates"))
            peers = [Peer(f"pyarrow, {name}, row groups", "ArrowGroups", path, arguments.limit),
                     Peer(f"pyarrow, {name}, random rows", "Arrow", path, arguments.limit)]
            for index in picks:
                program.send(op="dump", index=index, path=str(directory / "dump"))
                frames = program.receive()["frames"]
                found = np.fromfile(directory / "dump", "<f4").reshape(frames, -1)
                payload = peers[1].dump(index, directory / "dump.npy").tobytes()
                kind = name.split(":")[0]
                if kind in ("f16", "u8"):
                    want = (read_codecs.f16 if kind == "f16" else read_codecs.u8)(payload, frames, width)
                    assert np.array_equal(found, want), f"{name}: utterance {index} differs"
                else:
                    decode = read_codecs.klt if kind == "klt" else read_codecs.pq_codes
                    # klt in NumPy takes seconds for a hundred frames: the shortest utterance speaks for the others.
                    if kind == "pq" or frames == min(truth):
                        assert np.allclose(found, decode(payload, frames, learned, "last"), atol=1e-4), f"{name}: {index}"
                expected.setdefault(index, found if kind == "f16" else None)
            if name in ("f16", "u8") or name.startswith("pq"):
                peers.append(Peer(f"pyarrow and NumPy, {name}, random rows decoded", "ArrowDecoded", path, arguments.limit))
            measure(readers + peers, width, arguments, table)
            table[-len(readers) - len(peers)].extend([opened["compressed"] / opened["frames"], opened["pages_over_bytes"]])
            program.close()
            for peer in peers:
                peer.close()
        print("other formats ..", file=sys.stderr)
        program = Process([arguments.ours])
        program.send(op="open", cache=str(exact[0]), limit=arguments.limit)
        program.receive()
        others = [Peer(name, kind, directory, arguments.limit) for name, kind in [
            ("Parquet, list column, row groups", "ListColumn"), ("HF datasets", "Datasets"), ("lhotse, lilcom", "Lhotse"),
            ("safetensors, a file an utterance", "Safetensors"), ("np.memmap, raw f16", "Memmap")]]
        for index in picks:
            want = expected[index]
            for peer in others[1:]:
                found = np.asarray(peer.dump(index, directory / "dump.npy"), "f4").reshape(want.shape)
                if peer.name.startswith("lhotse"):
                    error = np.linalg.norm(found - want) / np.linalg.norm(want)
                    assert error < 0.05, f"{peer.name}: relative error {error}"
                else:
                    assert np.array_equal(found, want), f"{peer.name}: utterance {index} differs"
        first = others[0].dump(0, directory / "dump.npy")
        assert np.array_equal(first[: expected[0].size].astype("f4"), expected[0].ravel()), "the list column differs"
        measure([Ours("ours, f16, beside them", program, "decode"), *others], width, arguments, table)
        program.close()
        for peer in others:
            peer.close()
    print("| reader | GB/s a core | utterances/s a core | the same, 2 threads | GB/s by the clock, 1 thread | 2 threads "
          "| bytes a frame | 4 KiB pages over bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one, two, *size in table:
        size = f"{size[0]:.0f} | {size[1]:.3f}" if size else "| "
        print(f"| {name} | {one[0]:.2f} | {one[3]:.0f} | {two[0]:.2f} | {one[1]:.2f} | {two[1]:.2f} | {size} |")
    if arguments.out:
        rows = [{"reader": name, "one": one, "two": two} for name, one, two, *_ in table]
        arguments.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

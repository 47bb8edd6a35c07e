"""Ours against PyTorch: one table. Run it by `make bench-peers`.

For every row both sides start a process of their own, read the same inputs, compute once, and what
they computed is compared: a difference ends everything with its figure. Then rounds alternate, ours
and theirs, each a fresh measurement in a process that is already warm. A round counts as its best run,
the one that other programs disturbed least; the ratio is the median over pairs of rounds, its spread
the quartiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from safetensors.numpy import load_file

from rows import ROWS, forward_flop

HERE = Path(__file__).parent


class Side:
    """One process and its pipe."""

    row = "before the first row"

    def __init__(self, command, threads):
        count = str(threads)
        environment = {**os.environ, "RAYON_NUM_THREADS": count, "OMP_NUM_THREADS": count}
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)

    def ask(self, op, **arguments):
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            status = self.process.wait()
            end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            hint = "; the system kills what takes more memory than there is" if status == -9 else " (see above)"
            sys.exit(f"error: {self.row}: {' '.join(self.command)} {end} at `{op}`{hint}")
        return json.loads(reply)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def sides(arguments):
    """Our process and PyTorch's."""
    peer = [sys.executable, str(HERE / "peer.py"), str(arguments.threads), arguments.peer_device]
    return Side([arguments.ours, arguments.device], arguments.threads), Side(peer, arguments.threads)


def check(row, ours, theirs):
    """Ends the program unless every tensor agrees: ||ours - theirs|| / ||theirs||."""
    tolerance = row.get("tolerance", {})
    if set(ours) != set(theirs):
        sys.exit(f"error: {row['work']}: ours computed {sorted(ours)}, PyTorch {sorted(theirs)}")
    worst = (0.0, "")
    for name, reference in theirs.items():
        if ours[name].shape != reference.shape:
            sys.exit(f"error: {row['work']}: {name} is {ours[name].shape} here, {reference.shape} in PyTorch")
        reference = reference.astype(numpy.float64)
        norm = numpy.linalg.norm(reference)
        difference = numpy.linalg.norm(ours[name] - reference) / max(norm, 1e-30)
        limit = tolerance.get(name, tolerance.get(name.split(".")[0], 1e-5))
        if not difference <= limit:
            sys.exit(f"error: {row['work']}: {name} differs from PyTorch's by {difference:.2e} "
                     f"of its norm, allowed {limit:.0e}: no time is worth printing")
        worst = max(worst, (difference, name))
    return worst


def measure(row, arguments, directory):
    Side.row = row["work"]
    ours, theirs = sides(arguments)
    inputs = str(directory / "inputs.safetensors")
    # A process of its own draws the inputs, so that its memory is not counted.
    source = Side([arguments.ours, "cpu"], arguments.threads)
    drawn = row
    row = {**row, **source.ask("prepare", row=row, path=inputs)["row"]}
    if row["kind"] == "forward":  # real utterances have lengths of their own
        row["flop"] = forward_flop(row["network"], row["batches"])
    elif "padded" in row:
        row["flop"] *= row["padded"] * len(row["frames"]) / (drawn["padded"] * len(drawn["frames"]))
    source.close()
    results = []
    for name, side in (("ours", ours), ("theirs", theirs)):
        path = directory / f"{name}.safetensors"
        side.ask("load", row=row, path=inputs)
        side.ask("outputs", path=str(path))
        results.append(load_file(path))
    worst = check(row, *results)
    del results
    for side in (ours, theirs):
        side.ask("forget")
        side.ask("round", seconds=arguments.seconds / 2)  # warm-up
    pairs = []
    for _ in range(arguments.rounds):
        pairs.append([min(side.ask("round", seconds=arguments.seconds)["ms"])
                      for side in (ours, theirs)])
    memory = [side.ask("memory")["kib"] / 1024 for side in (ours, theirs)]
    for side in (ours, theirs):
        side.close()
    ratios = sorted(a / b for a, b in pairs)
    quartiles = numpy.quantile(ratios, [0.25, 0.75])
    return {
        "work": row["work"],
        "ours_ms": statistics.median(a for a, _ in pairs),
        "peer": "pytorch",
        "peer_ms": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": list(quartiles),
        "limit": row["limit"],
        "limit_mib": row.get("limit_mib"),
        "gflop": row["flop"] and row["flop"] / 1e9,
        "ours_mib": memory[0],
        "peer_mib": memory[1],
        "largest_difference": {"tensor": worst[1], "of_norm": worst[0]},
    }


def processor():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def graphics():
    """The card's name, as its driver has it."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "no NVIDIA driver"


def matmul_peak(arguments):
    """GFLOP/s of the best product of square matrices of either side.

    The order is no power of two: rows would share cache sets.
    """
    order = 6000 if arguments.device.startswith("cuda") else 2000
    both = sides(arguments)
    best = min(side.ask("matmul", order=order)["ms"] for _ in range(4) for side in both)
    for side in both:
        side.close()
    return 2 * order**3 / best / 1e6


def print_row(row, peak):
    speed = row["gflop"] / row["ours_ms"] * 1e3 if row["gflop"] else None
    low, high = row["ratio_quartiles"]
    limit = f"{row['limit']:.2f}" if row["limit"] else "-"
    verdict = "  slower than allowed" if row["limit"] and row["ratio"] > row["limit"] else ""
    if row["limit_mib"] and row["ours_mib"] > row["limit_mib"]:
        verdict += f"  more than {row['limit_mib']} MiB"
    print(f"{row['work']:<42}{row['ours_ms']:>10.1f}{row['peer_ms']:>12.1f}"
          f"{row['ratio']:>8.2f} ({low:.2f}-{high:.2f}){limit:>7}"
          f"{f'{speed:.0f}' if speed else '-':>9}{f'{speed / peak:.2f}' if speed else '-':>7}"
          f"{row['ours_mib']:>8.0f}{row['peer_mib']:>8.0f}{verdict}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the program built from benches/peers/main.rs")
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--rows", default="", help="only rows whose name contains one of these words")
    parser.add_argument("--corpus", type=Path, help="take the 16 utterances of training steps from this corpus")
    parser.add_argument("--cache", type=Path, help="and their targets from this teacher's cache")
    parser.add_argument("--speech", type=Path, help="run the teacher over the whole of this corpus")
    parser.add_argument("--device", default="cpu", help="of ours: cpu, cuda[:i] or wgpu[:i]")
    parser.add_argument("--peer-device", help="of PyTorch: cpu or cuda[:i]; cuda where ours is a GPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.7, help="of one round")
    arguments = parser.parse_args()
    arguments.peer_device = arguments.peer_device or ("cpu" if arguments.device == "cpu" else "cuda")
    words = arguments.rows.replace(",", " ").split()
    if arguments.rounds < 1:
        sys.exit(f"error: --rounds: expected at least 1, found {arguments.rounds}")
    if bool(arguments.corpus) != bool(arguments.cache):
        given, missing = ("CORPUS", "CACHE") if arguments.corpus else ("CACHE", "CORPUS")
        sys.exit(f"error: {given} without {missing}: the cache holds the teacher's targets of that corpus")
    for name, path, seal in (("CORPUS", arguments.corpus, "corpus.toml"), ("CACHE", arguments.cache, "manifest.toml"),
                             ("SPEECH", arguments.speech, "corpus.toml")):
        if path and not (path / seal).is_file():
            sys.exit(f"error: {name}={path}: expected a complete directory with {seal} in it, found none")
    chosen = [row for row in ROWS if not words or any(word in row["work"] for word in words)]
    if not chosen:
        sys.exit(f"error: no row contains {arguments.rows!r}; there are: "
                 + "; ".join(row["work"] for row in ROWS))
    if arguments.corpus:
        real = {"corpus": str(arguments.corpus), "cache": str(arguments.cache)}
        chosen = [{**row, **real} if row["kind"] == "step" else row for row in chosen]
    if arguments.speech:
        named = f", all of {arguments.speech.name}"
        chosen = [{**row, "corpus": str(arguments.speech), "work": row["work"] + named} if row.get("speech") else row
                  for row in chosen]
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        print(f"warning: other programs are at work (load {load:.1f} on {cores} cores): times and ratios mean little",
              file=sys.stderr)
    peak = matmul_peak(arguments)
    place = f"{processor()}, {arguments.threads} threads"
    if arguments.device != "cpu":
        place += f"; ours on {arguments.device}, PyTorch on {arguments.peer_device} ({graphics()})"
    print(f"{place}, measured matmul peak {peak:.0f} GFLOP/s")
    print(f"{'work':<42}{'ours ms':>10}{'PyTorch ms':>12}{'ratio (quartiles)':>20}{'limit':>7}"
          f"{'GFLOP/s':>9}{'peak':>7}{'MiB':>8}{'theirs':>8}")
    rows = []
    for row in chosen:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(measure(row, arguments, Path(directory)))
        print_row(rows[-1], peak)
        result = {"place": place, "device": arguments.device, "peer_device": arguments.peer_device,
                  "threads": arguments.threads, "matmul_gflops": peak, "rows": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

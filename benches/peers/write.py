"""What stage one takes beyond the teacher's forward pass: `cache` with each codec over `cache --bare`, in alternation.

Caches go into a temporary directory and are removed again. Run it by `make bench-write`; other work on the machine shows
in the clock's ratio first, in the processor's last."""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path


def run(arguments, scratch, codec):
    """Seconds by the clock and of the processor."""
    out = scratch / "cache"
    how = ["--bare"] if codec is None else ["--codec", codec]
    command = [arguments.tutornet, "-q", "cache", "--model", arguments.model, "--corpus", arguments.corpus, "--out", out,
               "--device", "cpu", *how]
    before, began = os.times(), time.monotonic()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    after, clock = os.times(), time.monotonic() - began
    subprocess.run(["rm", "-rf", str(out)], check=True)
    processor = sum(getattr(after, kind) - getattr(before, kind) for kind in ("children_user", "children_system"))
    return clock, processor


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tutornet", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--codecs", nargs="+", default=["f16", "u8", "klt:0.1", "pq:64"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scratch", type=Path)
    arguments = parser.parse_args()
    if os.getloadavg()[0] > 1.0:
        print(f"the load is {os.getloadavg()[0]:.1f}: something else runs; ratios by the clock say little")
    found = {codec: [] for codec in [None, *arguments.codecs]}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        for number in range(arguments.rounds):
            for codec in found:
                found[codec].append(run(arguments, Path(scratch), codec))
                clock, processor = found[codec][-1]
                print(f"round {number + 1}: {codec or 'bare'} {clock:.1f} s, {processor:.1f} s of processors", flush=True)
        # The bare pass again, so that a drift of the machine shows.
        found[None].append(run(arguments, Path(scratch), None))
    middle = {codec: [statistics.median(column) for column in zip(*runs)] for codec, runs in found.items()}
    print("| codec | s | over bare | processor s | over bare |\n|---|---|---|---|---|")
    for codec, (clock, processor) in middle.items():
        print(f"| {codec or 'bare'} | {clock:.1f} | {clock / middle[None][0]:.3f} | {processor:.1f} "
              f"| {processor / middle[None][1]:.3f} |")
    spread = [clock for clock, _ in found[None]]
    print(f"bare passes took {min(spread):.1f} to {max(spread):.1f} s")


main()

"""Memory of stage two by the size of what it reads: the same training from a cache and from one several times as large.

The larger cache and its corpus hold every utterance several times, under names of their own; both are written into a
temporary directory and removed again. Peaks of RssAnon (what the process keeps) and RssFile (pages of files that are mapped)
are sampled from /proc while training runs, and while every utterance is read once. Run it by `make bench-memory`."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def program(command, **request):
    done = subprocess.run([command], input=json.dumps(request) + "\n", capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def train(arguments, directory, name, corpus, cache):
    pipeline = directory / f"{name}.toml"
    stages = "".join(
        f'[[stage]]\nobjective = "{objective}"\nteacher = ["{cache.resolve()}"]\nmax_updates = {arguments.updates}\n'
        for objective in ("rkd", "ctc+skd")
    )
    pipeline.write_text(f"""name = "{name}"\nstudent = {{ preset = "jasper-mini", width = 0.25 }}\nthreads = 2
[data]\ntrain = ["{corpus.resolve()}"]\nbatch_seconds = 96.0\n{stages}""")
    child = subprocess.Popen([arguments.tutornet, "-q", "train", pipeline, "--out", directory / f"run-{name}", "--device", "cpu"],
                             stdout=subprocess.DEVNULL)
    peaks = {"RssAnon": 0, "RssFile": 0}
    while child.poll() is None:
        try:
            for line in open(f"/proc/{child.pid}/status"):
                key, _, value = line.partition(":")
                if key in peaks:
                    peaks[key] = max(peaks[key], int(value.split()[0]))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.02)
    if child.wait():
        sys.exit(f"training {name} ended with {child.returncode}")
    return {key: value / 1024 for key, value in peaks.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the program of the read bench")
    parser.add_argument("--tutornet", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--scratch", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory:
        directory = Path(directory)
        found = {}
        for times in (1, arguments.times):
            for source, kind in ((arguments.cache, "cache"), (arguments.corpus, "corpus")):
                program(arguments.ours, op="repeat", **{"from": str(source)}, times=times, out=str(directory / f"{kind}-{times}"))
            walk = program(arguments.ours, op="walk", cache=str(directory / f"cache-{times}"))
            size = sum(file.stat().st_size for file in (directory / f"cache-{times}").iterdir()) / 2**20
            found[times] = train(arguments, directory, f"x{times}", directory / f"corpus-{times}", directory / f"cache-{times}")
            found[times]["walk"] = walk["rss_file_kib"] / 1024
            print(f"cache of {size:.0f} MiB: training takes at most RssAnon {found[times]['RssAnon']:.0f} MiB, RssFile "
                  f"{found[times]['RssFile']:.0f} MiB; reading all {walk['utterances']} utterances once in shuffled order RssAnon "
                  f"{walk['rss_anon_kib'] / 1024:.0f} MiB, RssFile {found[times]['walk']:.0f} MiB", flush=True)
        ratio = found[arguments.times]["RssAnon"] / found[1]["RssAnon"]
        print(f"{arguments.times} times the cache takes {ratio:.3f} times the anonymous memory")
        if ratio > 1.05 or max(found[arguments.times][key] for key in ("RssFile", "walk")) > 1024:
            sys.exit("expected the same anonymous memory within 5 %, and at most 1 GiB of mapped pages")


if __name__ == "__main__":
    main()

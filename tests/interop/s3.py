"""Training from a bucket: an S3 server (moto) that goes away, and a local copy that is too small for the data.

TUTORNET is the program; speech and teacher are made from tests/corpus. `s3.py CORPUS CACHE MEGABYTES` trains from a corpus
and a cache of your own instead, with so large a local copy, and ends there. `s3.py serve PORT DIRECTORY` is the server: it
holds the files of DIRECTORY in one bucket, so that killing it loses nothing."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

from made import PIPELINE, ROOT, corpus

BUCKET = "speech"
MEGABYTES = 1
GONE = 10  # seconds
STUDENT = """name = "from a bucket"
student = {student}
threads = 2
[data]
train = ["{place}/corpus"]
{data}
[[stage]]
objective = "rkd"
teacher = ["{place}/cache"]
max_updates = 40
[[stage]]
objective = "ctc+skd"
teacher = ["{place}/cache"]
max_updates = 40
[optimizer]
name = "adamw"
learning_rate = 0.003
[checkpoint]
every_updates = 10
"""


def serve(port, directory):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import run_simple

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for place, _, names in os.walk(directory, followlinks=True):
        for path in (Path(place) / name for name in names if not name.startswith(".")):
            # moto's first look at an ETag reads the object without its lock: here, not while others read it.
            assert backend.put_object(BUCKET, str(path.relative_to(directory)), path.read_bytes()).etag
    run_simple("127.0.0.1", port, DomainDispatcherApplication(create_backend_app), threaded=True)


class Server:
    """The server in a process of its own; a strict one knows nobody's credentials."""

    running = []

    def __init__(self, directory, strict=False):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [sys.executable, __file__, "serve", str(self.port), str(directory)]
        self.environment = dict(os.environ, **({"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if strict else {}))
        self.log = open(directory.parent / f"server-{self.port}.log", "a+")
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, env=self.environment)
        self.running.append(self.process)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, "the server ended"
            time.sleep(0.1)
        raise AssertionError("the server does not listen")

    def stop_for(self, seconds):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def requests(self):
        self.log.flush()
        return Path(self.log.name).read_text().count("GET /")


class Bound(threading.Thread):
    """Looks all the time at how large the local copy is, at moments when nobody writes."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.directory, self.most, self.on, self.gone = directory, 0, True, set()

    def run(self):
        before = set()
        while not (self.directory / "blocks/.lock").exists():
            time.sleep(0.01)
        with open(self.directory / "blocks/.lock") as lock:
            while self.on:
                fcntl.flock(lock, fcntl.LOCK_EX)
                paths = [self.directory, *self.directory.rglob("*")]
                sizes = [max(status.st_size, status.st_blocks * 512) for status in (path.stat() for path in paths)]
                fcntl.flock(lock, fcntl.LOCK_UN)
                self.most, self.gone = max(self.most, sum(sizes)), self.gone | (before - set(paths))
                before = set(paths)
                time.sleep(0.01)


def start(*arguments, env=None):
    command = [os.environ["TUTORNET"], *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process, code=0):
    out, err = process.communicate()
    assert process.returncode == code, (process.args, process.returncode, err)
    return out, err


def run(*arguments, env=None, code=0):
    return finish(start(*arguments, env=env), code)


def updates(directory):
    log = directory / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def wait_for(directory, lines, process):
    while updates(directory) < lines:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def weights(directory):
    return (directory / "student/weights.safetensors").read_bytes()


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def pipelines(scratch, disk, student, data):
    """One run from the disk, `student.toml`, and the same from the bucket, `remote.toml`."""
    for name, place in [("student", disk), ("remote", f"s3://{BUCKET}")]:
        (scratch / f"{name}.toml").write_text(STUDENT.format(place=place, student=student, data=data.format(place=place)))


def environment(server, copy, megabytes):
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TUTORNET_REMOTE"))}
    return dict(plain, AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.port}", AWS_ALLOW_HTTP="true", AWS_REGION="us-east-1",
                AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", TUTORNET_REMOTE_CACHE=str(copy),
                TUTORNET_REMOTE_CACHE_MB=str(megabytes))


def same_weights(scratch, server, size, megabytes):
    """The same weights, through evictions and a server that hangs, and later is killed, for ten seconds each."""
    run("-q", "train", scratch / "student.toml", "--out", scratch / "local", "--device", "cpu")
    expected = weights(scratch / "local")
    env = environment(server, scratch / "copy", megabytes)
    bound = Bound(scratch / "copy")
    bound.start()
    out = scratch / "from-bucket"
    process = start("train", scratch / "remote.toml", "--out", out, "--device", "cpu", env=env)
    wait_for(out, 15, process)
    server.stop_for(GONE)
    wait_for(out, 50, process)
    server.kill()
    time.sleep(GONE)
    server.start()
    # Another process shares the local copy meanwhile.
    found, _ = run("inspect", "--json", f"s3://{BUCKET}/cache", env=env)
    assert found == run("inspect", "--json", scratch / "bucket/cache")[0]
    _, err = finish(process)
    bound.on = False
    bound.join()
    assert weights(out) == expected, "other weights from the bucket"
    assert "has not answered for 5 s" in err and "does not answer: " in err, err
    assert err.count("answers again after") == 2, err
    assert 0.5e6 * megabytes < bound.most <= 1e6 * megabytes and bound.gone, (bound.most, len(bound.gone))
    identities = [tomllib.loads((scratch / name / "inputs.toml").read_text()) for name in ("local", "from-bucket")]
    first, second = ([sorted(of[kind].values()) for kind in ("corpora", "caches")] for of in identities)
    assert first == second
    print(f"{size / 1e6:.1f} MB in the bucket: the same weights; the local copy took {bound.most / 1e6:.2f} MB at most, "
          f"{len(bound.gone)} evictions seen, {server.requests()} requests", flush=True)
    return expected, env


def parquet_bytes(disk):
    return sum((Path(place) / name).stat().st_size for place, _, names in os.walk(disk, followlinks=True)
               for name in names if name.endswith(".parquet"))


def own(scratch, speech, of, megabytes):
    """Trains from a corpus and a cache of it that exist."""
    disk = scratch / "bucket"
    disk.mkdir()
    (disk / "corpus").symlink_to(speech.resolve())
    (disk / "cache").symlink_to(of.resolve())
    size = parquet_bytes(disk)
    assert size > 2e6 * megabytes, f"expected more than twice {megabytes} MB of shards, found {size / 1e6:.1f} MB"
    pipelines(scratch, disk, '{ preset = "jasper-mini", width = 0.25 }', "batch_seconds = 96.0")
    same_weights(scratch, Server(disk), size, megabytes)


def main(scratch):
    disk, remote = scratch / "bucket", f"s3://{BUCKET}"
    (scratch / "teacher.toml").write_text(PIPELINE.format(corpus=repr(f"{disk}/corpus")))
    pipelines(scratch, disk, '"jasper-nano"', 'dev = ["{place}/corpus"]\nbatch_seconds = 24.0')
    corpus(disk / "corpus")
    run("-q", "train", scratch / "teacher.toml", "--out", scratch / "teacher", "--device", "cpu")
    run("-q", "cache", "--model", scratch / "teacher/student", "--corpus", disk / "corpus", "--out", disk / "cache",
        "--device", "cpu", "--codec", "klt:0.1")
    size = parquet_bytes(disk)
    assert size > 2e6 * MEGABYTES, size
    run("-q", "cache", "--model", scratch / "teacher/student", "--corpus", disk / "corpus", "--out", disk / "exact", "--device", "cpu")
    damaged = disk / "damaged"
    shutil.copytree(disk / "cache", damaged)
    flip(sorted(damaged.glob("*.parquet"))[0], 2000)
    shutil.copytree(disk / "corpus", disk / "incomplete")
    (disk / "incomplete/corpus.toml").unlink()
    shutil.copytree(disk / "corpus", disk / "hole")
    sorted((disk / "hole").glob("*.parquet"))[1].unlink()
    server = Server(disk)
    expected, env = same_weights(scratch, server, size, MEGABYTES)

    # Stopped while the server is gone, resumed from the disk, stopped, and resumed from the bucket.
    out = scratch / "stopped"
    process = start("train", scratch / "remote.toml", "--out", out, "--device", "cpu", env=env)
    wait_for(out, 15, process)
    server.kill()
    for line in process.stderr:
        if "waiting for it" in line:
            break
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    finish(process, code=1)
    assert time.monotonic() - began < 5 and 15 <= updates(out)
    process = start("train", scratch / "student.toml", "--out", out, "--device", "cpu", "--resume", env=env)
    wait_for(out, 45, process)
    process.send_signal(signal.SIGTERM)
    finish(process, code=1)
    server.start()
    run("train", scratch / "remote.toml", "--out", out, "--device", "cpu", "--resume", env=env)
    assert weights(out) == expected, "other weights after going on elsewhere"
    print("stopped while the server was gone, resumed from the disk and again from the bucket: the same weights")

    # Reading commands; blocks damaged on the local disk are fetched again.
    roomy = dict(env, TUTORNET_REMOTE_CACHE=str(scratch / "roomy"), TUTORNET_REMOTE_CACHE_MB="100")
    model = scratch / "local/student"
    scores = [run("-q", "eval", "--model", model, "--corpus", f"{place}/corpus", "--device", "cpu", env=roomy)[0]
              for place in (disk, remote)]
    assert scores[0] == scores[1], scores
    for place in ("corpus", "cache"):
        assert "ok" in run("verify", f"{remote}/{place}", env=roomy)[0]
        assert run("inspect", f"{remote}/{place}", env=roomy)[0] == run("inspect", disk / place)[0]
    for number, place in enumerate((disk, remote)):
        exact, out = f"{place}/exact", scratch / f"made-{number}"
        run("-q", "cache", "recode", exact, "--codec", "u8", "--out", out / "recoded", env=roomy)
        run("-q", "cache", "export", exact, "--format", "npy", "--out", out / "export", env=roomy)
    made = [{path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
            for out in (scratch / "made-0", scratch / "made-1")]
    assert made[0] == made[1] and len(made[0]) > 50
    print("recoded and exported from the bucket: the same bytes as from the disk")
    blocks = [path for path in (scratch / "roomy/blocks").rglob("*-*") if path.is_file()]
    for path in blocks:
        flip(path, path.stat().st_size // 2)
    _, err = run("verify", f"{remote}/cache", env=roomy)
    assert err.count("damaged; fetched again") > 20, err
    _, err = run("verify", f"{remote}/cache", env=roomy)
    assert "damaged" not in err, err
    out, _ = run("verify", f"{remote}/damaged", env=roomy, code=1)
    assert "utterance" in out and "s3://speech/damaged/shard-00000.parquet" in out, out
    print(f"{len(blocks)} damaged blocks of the local copy were fetched again; what is damaged in the bucket is named")

    # Errors say what is wrong.
    def refused(place, *words, **changes):
        changed = dict(env, TUTORNET_REMOTE_WAIT="1", **changes)
        _, err = run("eval", "--model", model, "--corpus", place, "--device", "cpu", code=1,
                     env={key: value for key, value in changed.items() if value})
        assert all(word in err for word in words), (place, changes, err)

    strict = Server(disk, strict=True)
    closed = f"http://127.0.0.1:{server.port + 1 if server.port + 1 != strict.port else server.port + 2}"
    refused("s3://nowhere/corpus", "there is no bucket nowhere at http://127.0.0.1")
    refused(f"{remote}/incomplete", "s3://speech/incomplete", "the upload is not complete")
    refused(f"{remote}/hole", "s3://speech/hole/shard-00001.parquet", "missing")
    refused(f"{remote}/corpus", f"{closed} does not answer", "given up after", AWS_ENDPOINT_URL=closed)
    refused(f"{remote}/corpus", "set AWS_ALLOW_HTTP=true", AWS_ALLOW_HTTP="")
    refused(f"{remote}/corpus", "go together", AWS_SECRET_ACCESS_KEY="")
    refused(f"{remote}/corpus", "no credentials: set AWS_ACCESS_KEY_ID", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="",
            AWS_METADATA_ENDPOINT=closed)
    refused(f"{remote}/corpus", "does not accept the credentials (InvalidAccessKeyId)",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{strict.port}")
    refused(f"{remote}/corpus", "denied by http://", AWS_ENDPOINT_URL=f"http://127.0.0.1:{strict.port}", AWS_SKIP_SIGNATURE="true")
    refused("s3://", "expected s3://BUCKET/PREFIX")
    refused(f"{remote}/corpus", "TUTORNET_REMOTE_CACHE_MB: expected a whole number", TUTORNET_REMOTE_CACHE_MB="many")
    _, err = run("prep", "librispeech", ROOT / "tests/corpus/LibriSpeech", "--subset", "dev-clean", "--out", f"{remote}/new",
                 env=env, code=1)
    assert "nothing is written to a bucket" in err and not Path("s3:").exists(), err
    strict.kill()
    server.kill()


if sys.argv[1:2] == ["serve"]:
    serve(int(sys.argv[2]), Path(sys.argv[3]))
else:
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if sys.argv[1:]:
                own(Path(scratch), Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
            else:
                main(Path(scratch))
    finally:
        for process in Server.running:
            process.kill()

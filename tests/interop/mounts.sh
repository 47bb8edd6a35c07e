#!/usr/bin/env bash
# One directory through two mounts that know nothing of each other's locks, and processes that do not see each other: as on two
# machines. Tasks are started twice and one is killed; the sealed cache must be that of a single process, byte for byte.
#
# Needs root and bindfs (`apt-get install bindfs`), and fails without. Part of `make test-slurm`.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v bindfs > /dev/null || { echo "error: bindfs is not installed: apt-get install bindfs. Mounts were NOT tested." >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || { echo "error: mounts need root. Mounts were NOT tested." >&2; exit 1; }
TUTORNET=$(realpath "${TUTORNET:-target/release/tutornet}")
repository=$PWD
DIR=$(mktemp -d /tmp/tutornet-mounts.XXXXXX)
finish() {
    local code=$?
    for mount in one two; do umount "$DIR/$mount" 2> /dev/null || true; done
    [ "$code" -eq 0 ] || tail -n 5 "$DIR"/*.log
    rm -rf "$DIR"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM
cd "$DIR"
# One that has learned enough for its states to differ, and one that takes its time.
cat > teacher.toml <<'TOML'
name = "teacher"
student = "jasper-mini"
threads = 1
[data]
train = ["corpus"]
dev = []
batch_seconds = 10.0
[[stage]]
objective = "ctc"
max_updates = 40
TOML
sed 's/jasper-mini/quartznet15x5/; s/= 40/= 1/' teacher.toml > slow.toml
"$TUTORNET" -q prep librispeech "$repository/tests/corpus/LibriSpeech" --subset train --shard-utterances 36 --out corpus
for teacher in teacher slow; do "$TUTORNET" -q train $teacher.toml --out $teacher --device cpu > /dev/null; done

# task MOUNT I TEACHER CODEC: in a space of process numbers of its own, that is, on another machine as far as claims can tell.
task() {
    exec unshare --pid --fork --kill-child --mount-proc "$TUTORNET" cache --model "$3/student" --corpus corpus \
        --device cpu --workers 1 --batch-seconds 6 --codec "$4" --out "$1/cache" --shard "$2" --of 2
}
is_equal() { diff -r "$1" behind/cache && echo "no difference in $(find "$1" -type f | wc -l) files"; }

for codec in f16 klt:0.01; do
    echo "## $codec: two tasks, each on both machines at once"
    "$TUTORNET" -q cache --model teacher/student --corpus corpus --device cpu --codec "$codec" --out "single-$codec"
    mkdir behind one two
    for mount in one two; do bindfs behind $mount; done
    mkdir behind/cache
    touch one/cache/.lock
    # What this test is about: a lock through one mount says nothing to the other.
    flock -n one/cache/.lock flock -n two/cache/.lock true || { echo "error: the mounts share locks" >&2; exit 1; }
    tasks=()
    for mount in one two; do
        for number in 0 1; do (task $mount $number teacher $codec) > "$mount-$number.log" 2>&1 & tasks+=($!); done
    done
    for pid in "${tasks[@]}"; do wait "$pid"; done
    grep -h "this task's" ./*.log
    "$TUTORNET" cache seal two/cache
    is_equal "single-$codec"
    umount one two
    rm -rf behind one two
done

echo "## a task is killed on one machine, and goes on on the other"
"$TUTORNET" -q cache --model slow/student --corpus corpus --device cpu --out single-slow
mkdir behind one two
for mount in one two; do bindfs behind $mount; done
(task one 0 slow f16) > one-0.log 2>&1 &
victim=$!
for _ in {1..600}; do
    compgen -G 'behind/cache/.claim-shard-*' > /dev/null && break
    kill -0 $victim || { echo "error: no claim was seen" >&2; exit 1; }
    sleep 0.05
done
"$TUTORNET" cache seal two/cache 2> seal.log && exit 1
grep "being written by another process" seal.log
kill -KILL $victim
wait $victim || true
ls behind/cache/.claim-shard-*
for number in 0 1; do (task two $number slow f16) > "two-$number.log" 2>&1; done
grep -h "taking over\|this task's" two-0.log two-1.log
"$TUTORNET" cache seal one/cache
is_equal single-slow
umount one two
echo "Mounts: passed"

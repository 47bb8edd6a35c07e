#!/usr/bin/env bash
# pipelines/slurm/ under a real Slurm: four node daemons on this machine write one cache as an array of eight tasks while one
# task is killed, one warned, one node drained and one task cancelled for good; the seal is a dependent job. The sealed cache
# must be that of a single process, byte for byte. Then an array of training runs, one of which is warned and goes on.
#
# Needs root, slurm-wlm and munge (`apt-get install slurm-wlm munge`), and fails without them.
#
#   make test-slurm
#   make test-slurm MODEL=models/quartznet CORPUS=corpora/train-mini    # another teacher and corpus, of 16 shards or more
#
# TUTORNET  the program; LOG: where to keep what is printed, without paths and host names; SLURM_TEST_FLAGS: for `cache`
set -euo pipefail
cd "$(dirname "$0")/../.."

needed=(munged slurmctld slurmd sbatch squeue scancel scontrol)
for program in "${needed[@]}"; do
    PATH=$PATH:/usr/sbin command -v "$program" > /dev/null || {
        echo "error: $program is not installed: apt-get install slurm-wlm munge. Slurm was NOT tested." >&2
        exit 1
    }
done
[ "$(id -u)" -eq 0 ] || { echo "error: the daemons of Slurm need root. Slurm was NOT tested." >&2; exit 1; }
export PATH=$PATH:/usr/sbin
TUTORNET=$(realpath "${TUTORNET:-target/release/tutornet}")
export TUTORNET
repository=$PWD
DIR=$(mktemp -d /tmp/tutornet-slurm.XXXXXX)
HOST=$(hostname -s)

in_repository() { case $1 in /*) echo "$1" ;; *) echo "$repository/$1" ;; esac; }
[ -z "${MODEL:-}" ] || MODEL=$(in_repository "$MODEL")
[ -z "${CORPUS:-}" ] || CORPUS=$(in_repository "$CORPUS")
if [ -n "${LOG:-}" ]; then
    LOG=$(realpath "$LOG")
    names="s#${MODEL:-$DIR}#models/$(basename "${MODEL:-}")#g; s#${CORPUS:-$DIR}#corpora/$(basename "${CORPUS:-}")#g"
    names="s#$DIR#DIR#g; $names; s#$TUTORNET#tutornet#g; s#$repository#.#g; s#\\b$HOST\\b#HOST#g"
    exec > >(sed -u -e "$names" | tee "$LOG") 2>&1
fi

daemons=()
finish() {
    local code=$?
    trap - EXIT
    scancel --user=root > /dev/null 2>&1 || true
    sleep 1
    local pid
    for pid in "$DIR"/*.pid; do [ ! -e "$pid" ] || daemons+=("$(cat "$pid")"); done
    for pid in "${daemons[@]}"; do kill "$pid" 2> /dev/null || true; done
    for pid in "${daemons[@]}"; do
        for _ in {1..100}; do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
    done
    if [ "$code" -ne 0 ]; then
        echo "FAILED with $code; logs:"
        tail -n 30 "$DIR"/work/*.log 2> /dev/null || true
        [ -z "${KEEP:-}" ] || { echo "kept: $DIR"; exit "$code"; }
    fi
    rm -rf "$DIR"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n## %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
# until_true SECONDS WHAT COMMAND..: waits until the command succeeds.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || { echo "error: waited in vain for: $what" >&2; squeue >&2 || true; exit 1; }
        sleep 0.1
    done
}

say "Slurm on one machine: four nodes of one core"
mkdir -p "$DIR"/{state,spool,work,munge}
chmod 755 "$DIR"
dd if=/dev/urandom of="$DIR/munge/key" bs=1024 count=1 2> /dev/null
chmod 700 "$DIR/munge"; chmod 400 "$DIR/munge/key"; chown -R munge "$DIR/munge"
chmod 711 "$DIR/munge"
runuser -u munge -- munged --foreground --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" \
    --pid-file="$DIR/munge/pid" --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed" > /dev/null 2>&1 &
daemons+=($!)
until_true 20 munged test -S "$DIR/munge/socket"
cat > "$DIR/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket,cred_expire=2
CryptoType=crypto/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/ctld.pid
SlurmdPidFile=$DIR/%n.pid
SlurmctldLogFile=$DIR/ctld.log
SlurmdLogFile=$DIR/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=10
MinJobAge=3600
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n[1-4] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=17001-17004 CPUs=1 RealMemory=2000
PartitionName=p Nodes=n[1-4] Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$DIR/slurm.conf
slurmctld -f "$SLURM_CONF"
for node in n1 n2 n3 n4; do mkdir -p "$DIR/spool/$node"; slurmd -f "$SLURM_CONF" -N $node; done
nodes_idle() { [ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = 4 ]; }
until_true 60 "four idle nodes" nodes_idle
show sinfo

say "What one process writes"
# The scripts are submitted from where pipelines/slurm/ lies.
ln -s "$repository/pipelines" "$DIR/work/pipelines"
cd "$DIR/work"
cat > setup.toml <<'TOML'
name = "teacher"
student = "quartznet15x5"
threads = 1
[data]
train = ["corpora/train"]
dev = []
batch_seconds = 10.0
[[stage]]
objective = "ctc"
max_updates = 1
TOML
if [ -z "${CORPUS:-}" ]; then
    mkdir corpora
    "$TUTORNET" -q prep librispeech "$repository/tests/corpus/LibriSpeech" --subset train --shard-utterances 12 --out corpora/train
fi
if [ -z "${MODEL:-}" ]; then
    "$TUTORNET" -q train setup.toml --out setup --device cpu > /dev/null
fi
CORPUS=${CORPUS:-corpora/train} MODEL=${MODEL:-setup/student}
shards=$(ls "$CORPUS"/shard-*.parquet | wc -l)
[ "$shards" -ge 16 ] || { echo "error: $CORPUS has $shards shards, expected at least 16" >&2; exit 1; }
# Small batches: a shard then takes several, and a task claims one or two at a time.
export MODEL CORPUS FLAGS="--device cpu --batch-seconds 6 ${SLURM_TEST_FLAGS:-}"
# shellcheck disable=SC2086
show "$TUTORNET" -q cache --model "$MODEL" --corpus "$CORPUS" --out single $FLAGS
echo "$shards shards, $(du -sk single | cut -f1) KiB"

# ---------------------------------------------------------------------------------------------------------------
state() { scontrol show job "$1" 2> /dev/null | grep -o 'JobState=[A-Z_]*' | head -1 | cut -d= -f2; }
field() { scontrol show job "$1" | grep -oE "\\b$2=[^ ]*" | head -1 | cut -d= -f2; }
done_records() { find cache -name '*.done' 2> /dev/null | wc -l; }
# The claims of job $1 (numbers of an array's tasks are Slurm's own: JobId).
claim_of() { grep -ls "^job = \"$1\"" cache/.claim-shard-* 2> /dev/null | head -1; }
has_state() { [ "$(state "$1")" = "$2" ]; }
# Shards that task $1 has not finished, by the plan.
unfinished() {
    awk -v task="$1" -F ' = ' '$1 == "file" { gsub(/"/, "", $2); file = $2 } $1 == "task" && $2 == task { print file }' \
        cache/plan.toml | while read -r shard; do [ -e "cache/${shard%.parquet}.done" ] || echo "$shard"; done | wc -l
}
busy_task() {
    # Sets `task` to a running task of the array that nothing has happened to yet, that has three shards or more before it, and
    # `claim` and `pid` to a claim that it holds and its process.
    local id
    for id in $(squeue --noheader --array --states=running --jobs="$job" --format=%i); do
        case " $touched " in *" $id "*) continue ;; esac
        claim=$(claim_of "$(field "$id" JobId)") || continue
        pid=$(sed -n 's/^process = //p' "$claim" 2> /dev/null) || continue
        if [ -n "$pid" ] && [ "$(unfinished "${id#*_}")" -ge 3 ]; then task=$id; return 0; fi
    done
    return 1
}
# Signals the script of a task as --signal=B:USR1 does. What scancel makes of a task that is over by then does not matter:
# whether it was begun anew is looked at later.
warn() {
    echo "$ scancel --signal=USR1 --batch $1"
    timeout 5 scancel --signal=USR1 --batch "$(field "$1" JobId)" || true
}
touched=

say "A claim of a machine that is no more"
mkdir cache
printf '%s\n' 'host = "nowhere"' 'space = "nowhere"' 'process = 1' 'started = 1' 'serial = 0' > cache/.claim-shard-00000.parquet
show cat cache/.claim-shard-00000.parquet

say "Stage one: an array of eight tasks, and the seal behind it"
export CACHE=cache
echo "MODEL=$MODEL CORPUS=$CORPUS CACHE=$CACHE FLAGS=\"$FLAGS\""
echo '$ job=$(sbatch --parsable --array=0-7 pipelines/slurm/cache.sbatch)'
job=$(sbatch --parsable --array=0-7 pipelines/slurm/cache.sbatch)
echo '$ seal=$(sbatch --parsable --dependency=afterok:$job pipelines/slurm/seal.sbatch)'
seal=$(sbatch --parsable --dependency="afterok:$job" pipelines/slurm/seal.sbatch)
echo "job=$job seal=$seal"

say "One task is killed: its script has it begun anew"
until_true 300 "a running task" busy_task
killed=$task touched="$touched $task"
echo "$killed, process $pid, holds $claim"
show kill -KILL "$pid"
show squeue --array --format="%.12i %.4t %.6N %.20r"

say "One node is drained, and its task requeued"
until_true 300 "another running task" busy_task
drained=$task touched="$touched $task"
node=$(field "$drained" BatchHost)
echo "$drained runs on $node"
show scontrol update "nodename=$node" state=drain reason=test
show scontrol requeue "$drained"

say "One task is warned, as before its time limit"
until_true 300 "a third running task" busy_task
warned=$task touched="$touched $task"
warn "$warned"

say "One is cancelled for good: the seal does not run, and says which task is missing"
until_true 300 "a fourth running task" busy_task
cancelled=$task touched="$touched $task"
show scancel "$cancelled"

others_over() { [ -z "$(squeue --noheader --jobs="$job" --format=%i)" ]; }
until_true 900 "the end of the array" others_over
show squeue --format="%.12i %.4t %.30r"
for id in "$killed" "$drained" "$warned"; do
    has_state "$id" COMPLETED || { echo "error: $id is $(state "$id"), expected COMPLETED" >&2; exit 1; }
    [ "$(field "$id" Restarts)" -ge 1 ] || { echo "error: $id was not begun anew" >&2; exit 1; }
    echo "$id: $(state "$id"), begun anew $(field "$id" Restarts) time(s), last on $(field "$id" BatchHost)"
done
[ "$(field "$drained" BatchHost)" != "$node" ] || { echo "error: $drained ran on the drained node" >&2; exit 1; }
has_state "$cancelled" CANCELLED || { echo "error: $cancelled is $(state "$cancelled")" >&2; exit 1; }
has_state "$seal" PENDING || { echo "error: the seal is $(state "$seal"), expected PENDING for good" >&2; exit 1; }
scancel "$seal"
[ ! -e cache/manifest.toml ]
missing=$("$TUTORNET" cache seal cache 2> seal.err) && { echo "error: sealed without $cancelled" >&2; exit 1; }
echo '$ tutornet cache seal cache'
cat seal.err
echo "$missing"
[ "$missing" = "${cancelled#*_}" ] || { echo "error: expected ${cancelled#*_}, found $missing" >&2; exit 1; }

say "The missing task again, and the seal behind it"
echo '$ job=$(sbatch --parsable --array=$(tutornet -q cache seal cache) pipelines/slurm/cache.sbatch)'
job=$(sbatch --parsable --array="$missing" pipelines/slurm/cache.sbatch)
echo '$ seal=$(sbatch --parsable --dependency=afterok:$job pipelines/slurm/seal.sbatch)'
seal=$(sbatch --parsable --dependency="afterok:$job" pipelines/slurm/seal.sbatch)
until_true 600 "the seal" has_state "$seal" COMPLETED

say "The claim of nowhere was watched and broken"
# By a task, or by the seal that came too early, when the task was the one that was cancelled.
show grep -h "process 1 on nowhere" tutornet-cache-*.log seal.err
grep -q "process 1 on nowhere is gone; taking over" tutornet-cache-*.log seal.err

say "Every file against a single process'"
show diff -r single cache
echo "no difference in $(find cache -type f | wc -l) files"
"$TUTORNET" -q verify cache
sed 's/^/  /' tutornet-seal-"$seal".log
for id in "$killed" "$drained" "$warned"; do
    echo "log of $id:"
    sed 's/^/  /' tutornet-cache-"$id".log
done

say "Stage two: an array of runs, one of which is warned and goes on"
mkdir -p pipelines-own
cat > pipelines-own/student.toml <<TOML
name = "student"
student = "jasper-nano"
threads = 1
[data]
train = ["$CORPUS"]
dev = []
batch_seconds = 30.0
[[stage]]
objective = "ctc+skd"
teacher = ["cache"]
max_updates = 60
TOML
export PIPELINES=pipelines-own/student.toml SEEDS="1 2" FLAGS="--device cpu"
for seed in $SEEDS; do
    "$TUTORNET" -q train pipelines-own/student.toml --out "straight/student.seed$seed" --set "seed=$seed" $FLAGS > /dev/null
done
echo "PIPELINES=\"$PIPELINES\" SEEDS=\"$SEEDS\" RUNS=runs"
echo '$ job=$(sbatch --parsable --array=0-1 pipelines/slurm/train.sbatch)'
job=$(sbatch --parsable --array=0-1 pipelines/slurm/train.sbatch)
trains() { [ "$(grep -c '"event":"step"' runs/student.seed2/metrics.jsonl 2> /dev/null || true)" -ge 5 ] 2> /dev/null; }
until_true 300 "five updates" trains
warn "${job}_1"
both_done() { has_state "${job}_0" COMPLETED && has_state "${job}_1" COMPLETED; }
until_true 600 "two runs" both_done
[ "$(field "${job}_1" Restarts)" -ge 1 ] || { echo "error: ${job}_1 was not begun anew" >&2; exit 1; }
for seed in $SEEDS; do
    show cmp "straight/student.seed$seed/student/weights.safetensors" "runs/student.seed$seed/student/weights.safetensors"
done
echo "log of ${job}_1:"
sed 's/^/  /' tutornet-train-"${job}"_1.log

say "Slurm: passed"

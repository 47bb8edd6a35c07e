# Sourced by the scripts beside it, as each of them runs one command that may have to be run again.
#
# again COMMAND..: runs it as the job's only work. Slurm's warning before the time limit (SIGUSR1, which --signal=B: sends to
# the script alone) is passed on: the command then finishes what it has in hand and exits with 75. Slurm begins the job anew
#   - on 75: the same command goes on where it stopped;
#   - when the command was killed (memory, a broken node), unless the job was begun anew RETRIES times (3 if not set) already.
#     Slurm counts the times of the line above as well: where limits are short and warnings many, set it higher.
# Any other exit code is the job's: 0 is done, 1 and 2 say what to repair first. SIGTERM is passed on too and begins nothing
# anew: scancel sends it.

again() {
    local child code=0 cancelled='' me=${SLURM_JOB_ID:?runs under Slurm only} restarts=${SLURM_RESTART_COUNT:-0}
    # By the number of an array's last task Slurm would know the whole array.
    [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || me=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    echo "start $restarts: $*"
    "$@" &
    child=$!
    trap 'echo "warned: passing it on"; kill -USR1 $child 2> /dev/null || true' USR1
    trap 'cancelled=1; kill -TERM $child 2> /dev/null || true' TERM
    # A signal ends `wait` but not the child; once the child has ended, `wait` says how, as often as it is asked.
    while wait "$child" || true; kill -0 "$child" 2> /dev/null; do :; done
    wait "$child" || code=$?
    trap - USR1 TERM
    if [ "$code" -eq 75 ] || { [ "$code" -gt 128 ] && [ -z "$cancelled" ] && [ "$restarts" -lt "${RETRIES:-3}" ]; }; then
        echo "exit code $code: once more"
        scontrol requeue "$me"
    fi
    if [ "$code" -gt 128 ] && [ -z "$cancelled" ] && [ "$restarts" -ge "${RETRIES:-3}" ]; then
        echo "exit code $code: killed, and not begun anew: start $restarts, RETRIES=${RETRIES:-3} (warnings counted in)"
    fi
    return "$code"
}

#!/bin/bash
# Tries scripts/train.slurm and `fastgen sweep --on slurm` on a real SLURM: one controller and two node daemons, all on
# this machine, with a configuration, a key and ports of their own in a temporary folder. Needs root and Debian's
# packages slurm-wlm and munge, no GPU; takes three to four minutes on two busy cores.
#   scripts/try_slurm.sh [train | sweep]
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin
folder=$(mktemp -d /tmp/try_slurm.XXXXXX)
export SLURM_CONF=$folder/slurm.conf FASTGEN_CACHE=${FASTGEN_CACHE:-$folder/cache} PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
nodes="first second"

say() { echo "try_slurm: $*"; }
die() { say "$*"; tail -n 50 "$folder"/*.out "$folder"/sweep/logs/*.txt "$folder"/sweep/logs/*/*.err "$folder"/log/slurmctld.log 2>/dev/null || true; exit 1; }
until_true() { # within $1 seconds the command "${@:2}" succeeds
    for _ in $(seq $(($1 * 4))); do
        if "${@:2}"; then return; fi
        sleep 0.25
    done
    die "not within $1 seconds: ${*:2}"
}
has_line() { grep -q "$1" "$2" 2>/dev/null; }                                 # text, file
has_steps() { [ "$(cat "$2/metrics.jsonl" 2>/dev/null | wc -l)" -ge "$1" ]; } # lines, run
is_gone() { ! grep -q "^State:.[^Z]" "/proc/$1/status" 2>/dev/null; }
in_state() { scontrol show job "$1" | grep -q "JobState=$2 "; }
ready() { [ "$(sinfo -h -N -t idle -o %N | xargs)" = "$nodes" ]; }
processes() { grep -lzx "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3; }
of_node() { # the processes of jobs on node $1, and the daemons that they are children of
    for pid in $(grep -lzx "SLURMD_NODENAME=$1" $(processes | sed 's:.*:/proc/&/environ:') 2>/dev/null | cut -d/ -f3); do
        echo "$pid"
        sed -n 's/^PPid:\t//p' "/proc/$pid/status"
    done | sort -u | grep -vx 1
}

stop() {
    if [ -f "$folder/slurmctld.pid" ]; then
        scancel --user=root --quiet || true
        for _ in $(seq 40); do [ "$(squeue -h)" ] || break; sleep 0.25; done
    fi
    for name in slurmd-first slurmd-second slurmctld munged; do
        pid=$(cat "$folder/$name.pid" 2>/dev/null) && kill "$pid" 2>/dev/null || continue
        for _ in $(seq 20); do is_gone "$pid" && break; sleep 0.25; done
    done
    for pid in $(processes); do # jobs that outlived their daemon
        [ "$pid" = $$ ] || kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap stop EXIT

# ---------------------------------------------------------------- the cluster

read -r controller first second < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in sockets))')
mkdir "$folder/state" "$folder/log"
chmod 755 "$folder" # munged's socket lies there
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
cat >"$SLURM_CONF" <<F
ClusterName=try
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller
AuthType=auth/munge
CredType=cred/munge
# A job that is queued again waits until its credential has expired.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
PlugStackConfig=$folder/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=first NodeHostname=localhost NodeAddr=127.0.0.1 Port=$first CPUs=4 Gres=gpu:1 State=UNKNOWN
NodeName=second NodeHostname=localhost NodeAddr=127.0.0.1 Port=$second CPUs=4 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
F
: >"$folder/plugstack.conf"
echo "Name=gpu File=/dev/null" >"$folder/gres.conf" # a device that nobody opens: the trainings find no GPU
munged --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
slurmctld
for node in $nodes; do slurmd -N "$node"; done
until_true 20 ready
say "$(sbatch --version): two nodes are up"

# ---------------------------------------------------------------- scripts/train.slurm

try_train() {
    export FASTGEN_RUN=$folder/run FASTGEN_ACCELERATE=recipes/accelerate/cpu_2.yaml
    local options="--gpus-per-node=1 --cpus-per-task=1 --output=$folder/%x-%j.out" job steps=1500
    local settings="recipe=quickstart model.name=fastgen_mlp_1x512 data.limit=64 data.limit_test=22 data.batch_size=32
        train.epochs=100000 train.evaluate_epochs=100000 train.stop_at_interpolation=false train.max_steps=$steps
        track.log_steps=10 run.checkpoint_minutes=0.05"
    # shellcheck disable=SC2086  # lists of words
    job=$(sbatch --parsable $options scripts/train.slurm $settings)
    local log=$folder/fastgen-$job.out
    until_true 90 has_steps 20 "$FASTGEN_RUN"
    scancel --signal=TERM "$job"
    until_true 60 in_state "$job" FAILED
    has_line '"status": "interrupted"' "$FASTGEN_RUN/summary.json" || die "the signal left no summary"
    has_line "2 x cpu" "$log" && has_line "job $job ended with code" "$log" || die "the log lacks how the job went"
    say "scancel --signal=TERM ended the run with a checkpoint, and the script says how to go on"

    lines=$(wc -l <"$FASTGEN_RUN/metrics.jsonl")
    scontrol requeue "$job"
    until_true 120 has_steps $((lines + 20)) "$FASTGEN_RUN"
    has_line "run.resume=true" "$log" || die "the job that was queued again began anew"
    say "scontrol requeue: the job goes on where it was"

    # As if the second machine lost its power: the daemon and all that it had started.
    # shellcheck disable=SC2046
    kill -9 "$(cat "$folder/slurmd-second.pid")" $(of_node second)
    until_true 60 has_line "process 0 of 2 lost another one" "$log"
    until_true 60 has_line "Node failure on second" "$log"
    say "a node that died: the other one says so and ends, and SLURM queues the job again"
    # As a job of another number: what SLURM still had to tell the dead node of this one, it tells the living one later.
    scancel "$job"
    slurmd -N second
    until_true 60 ready
    # shellcheck disable=SC2086
    job=$(sbatch --parsable $options scripts/train.slurm $settings)
    until_true 120 in_state "$job" COMPLETED
    has_line '"status": "finished"' "$FASTGEN_RUN/summary.json" || die "the run is not finished"
    logged=$(sed -n 's/^{"step": \([0-9]*\),.*learning_rate.*/\1/p' "$FASTGEN_RUN/metrics.jsonl")
    [ "$logged" = "$(seq 10 10 $steps)" ] || die "a step is missing, or was logged twice"
    say "with the node back the same command finished the run: each of $steps steps once"
    unset FASTGEN_RUN FASTGEN_ACCELERATE
}

# ---------------------------------------------------------------- fastgen sweep --on slurm

try_sweep() {
    local root=$folder/sweep said=$folder/sweep.out log job
    local sweep=(.venv/bin/python -m fastgen.cli sweep recipe=quickstart model.name=fastgen_mlp_1x512 data.limit=64
        data.limit_test=22 data.batch_size=32 train.epochs=100000 train.evaluate_epochs=100000
        train.stop_at_interpolation=false train.max_steps=2000 track.log_steps=10 optim.lr=0.05,0.1 --output "$root"
        --on slurm --slurm time=2 --slurm gpus-per-node=1 --slurm cpus-per-task=1)
    one_logs() { # and is `log` then
        for log in "$root"/logs/*.txt; do has_steps 20 "$root/$(basename "$log" .txt)" && return; done
        return 1
    }

    ! "${sweep[@]}" --slurm partition=nowhere >"$said" 2>&1 || die "SLURM took a partition that it has not"
    has_line "SLURM refuses the jobs .*Invalid partition name" "$said" || die "the wrong partition is not told"
    "${sweep[@]}" >>"$said" 2>&1 &
    local watcher=$!
    until_true 90 one_logs
    kill "$watcher" && ! wait "$watcher"
    has_line "2 trainings go on without this process: .*scancel" "$said" || die "the sweep does not say what it left"
    job=$(sed -n "s/.*\"$(basename "$log" .txt)\": \"\([0-9_]*\)\".*/\1/p" "$root/logs/slurm/jobs.json")
    scancel --signal=USR2 "$job" # as SLURM does before the end of a job's time
    "${sweep[@]}" >>"$said" 2>&1 || die "the sweep's second process failed"
    has_line "2 of 2 points done" "$said" || die "points are missing"
    has_line "interrupted after" "$log" || die "the job's signal left no checkpoint"
    [ "$(grep -c 'Requeued job' "$root/logs/slurm/${job}_0_log.out")" = 1 ] || die "the job was not queued again"
    [ "$(cat "$root"/logs/*.txt | grep -c '^quickstart in ')" = 3 ] || die "a training was begun twice"
    say "fastgen sweep --on slurm: the array outlived it, a job whose time was over went on, the next sweep found both"
}

try_"${1:-train}"
[ "${1:-}" ] || try_sweep
say "all as it should be"

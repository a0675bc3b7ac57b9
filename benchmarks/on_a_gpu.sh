#!/bin/sh
# Every figure that needs a GPU, those that others depend on first; each step in under eight minutes on an H100.
# A part that fails or runs out of time does not keep the others from running.
#
#   FASTGEN_DATA=... sh benchmarks/on_a_gpu.sh OUTPUT [STEP ...]       steps: see the end; without any, all of them
#
# Wants CIFAR-10, MNIST and imagenet_sample under FASTGEN_DATA, fastgen importable, and DALI and FFCV where they can be
# had. OUTPUT/figures.tar.gz, made anew after each step, has all that is worth keeping: logs, figures, pages, and the
# runs without their checkpoints. It belongs under benchmarks/results/, and into docs/gpu.md; the runs in
# OUTPUT/paper/runs are what `fastgen reproduce` finds, and benchmarks/record_runs.py records.
# ON_A_GPU_DRY=1: everything at a scale that says nothing, to see that the commands run.
set -u
output=$(realpath -m "$1")
shift
mkdir -p "$output"
python=${PYTHON:-python}
bench_train="--steps 400 --repeats 2" bench_large="--steps 60 --samples 16640 --repeats 1" bench_loaders="--batch 256"
bench_loaders="$bench_loaders --samples 8192 --repeats 2" bench_peers="--repeats 2" scale="" epochs="train.epochs=4"
study="" filters="" stacked="--device cuda --networks 1,4,16,64" few="data.limit=5000"
if [ "${ON_A_GPU_DRY:-}" ]; then
    bench_train="--steps 2 --repeats 1 data.limit=256 data.limit_test=64" bench_large="--steps 1 --samples 96 --repeats 1"
    bench_loaders="--batch 8 --samples 48 --repeats 1" bench_peers="--steps 2 --repeats 1" scale="--scale smoke"
    epochs="train.epochs=1 data.limit=256 data.limit_test=64 train.stop_at_interpolation=false"
    study="data.limit=300 data.limit_test=100" filters="kernel.filters=16"
    stacked="--networks 2 --seconds 0.01" few="data.limit=256 data.limit_test=64"
fi


part() { # NAME SECONDS COMMAND...
    name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    began=$(date +%s)
    timeout "$limit" "$@" >"$output/$name.log" 2>&1
    code=$?
    echo "   exit code $code after $(($(date +%s) - began)) s; the end of $output/$name.log:"
    tail -n "${LINES_SHOWN:-25}" "$output/$name.log"
}

fastgen() { # NAME SECONDS ARGUMENTS...
    name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" -m fastgen.cli "$@"
}

bench() { # NAME SECONDS ARGUMENTS...
    name=$1 limit=$2
    shift 2
    fastgen "$name" "$limit" bench "$@" --output "$output/$name"
}

reproduce() { # NAME SECONDS ARGUMENTS...
    name=$1 limit=$2
    shift 2
    fastgen "$name" "$limit" reproduce "$@" --output "$output/paper"
}

tests() { part tests 300 "$python" -m pytest -q -m gpu -n 4 --no-cov; }

# What one GPU makes of the paper's headline: small Inception on random labels to 100 %; wanted in under 60 seconds.
overfit() {
    fastgen overfit 300 sweep recipe=cifar10_inception_random --output "$output/paper/runs" \
        ${ON_A_GPU_DRY:+train.epochs=1 data.limit=256 data.limit_test=64}
}

# Three at a time share the GPU, while one of them starts or compiles.
table1() { reproduce table1 470 table1 --jobs 3 $scale; }
figures() { for each in fig1a fig1b fig1c table4; do reproduce $each 300 $each --jobs 3 $scale; done; }

small() { bench small 300 train --only "inception;mlp_1x512" $bench_train; }

# Inception V3, 299 pixels: training from baked files wanted at 0.98 of the synthetic limit, stalled for under 1 %. An
# epoch as long as the measurement: ImageNet's are longer.
large() {
    for workload in "inception_v3 299 dali" "resnet50 224 dali" "resnet50 224 ffcv"; do
        bench "large_$(echo "$workload" | tr ' ' _)" 300 train --only "$workload" $bench_large
    done
}

loaders() {
    bench loaders 400 loaders --size 224 $bench_loaders \
        --only "fastgen dali;DALI;fastgen ffcv;FFCV;fastgen dali, small;fastgen ffcv, small;timm;torchvision, PIL"
}

peers() { bench peers 200 peers --precision bf16 $bench_peers; }

# What CUDA graphs gain, in turn. Without a GPU there are none.
graphs() { part graphs 300 "$python" benchmarks/cuda_graphs.py ${ON_A_GPU_DRY:+--help} --json "$output/cuda_graphs.json"; }

# How many runs at a time raise the total throughput of one GPU, and by how much.
jobs() {
    part jobs 400 "$python" benchmarks/jobs.py --jobs 1,3 --points 3 --repeats 1 --recipe cifar10_inception_random \
        --json "$output/jobs.json" $epochs train.evaluate_epochs=4
}

# Networks an hour of `fastgen memorization`: a loop over `fastgen train` beside sweeps, and what stacked weights gain.
networks() {
    part networks 400 "$python" benchmarks/jobs.py --jobs loop,1,4 --points 8 --repeats 1 --recipe cifar10_mlp_1x512_true \
        --json "$output/networks.json" $few train.epochs=15 train.evaluate_epochs=15 train.predictions=true
    part stacked 300 "$python" benchmarks/stacked.py $stacked --json "$output/stacked.json"
}

kernels() {
    reproduce kernels 300 table3 $study $filters
    reproduce bandwidth 300 table3_bandwidth --models cifar10,cifar10_convnet $study
    reproduce minnorm 300 minnorm $study
}

[ $# -gt 0 ] || set -- tests overfit small graphs table1 large loaders kernels peers jobs networks figures
for each in "$@"; do
    $each
    (cd "$output" && find . -path ./figures.tar.gz -prune -o -name checkpoints -prune -o -type f -print |
        tar -czf figures.tar.gz -T -)
done

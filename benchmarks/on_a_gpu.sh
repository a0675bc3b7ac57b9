#!/bin/sh
# Every figure that needs a GPU, those that others depend on first; each in a log of its own, with a limit of its own.
# A step that fails or runs out of time does not keep the others from running.
#
#   FASTGEN_DATA=... sh benchmarks/on_a_gpu.sh OUTPUT [STEP ...]       steps: see the end; without any, all of them
#
# Wants CIFAR-10, MNIST and imagenet_sample under FASTGEN_DATA, fastgen importable, and DALI and FFCV where they can be
# had. What comes out belongs under benchmarks/results/, and into docs/gpu.md.
set -u
output=$1
shift
mkdir -p "$output"

step() { # NAME SECONDS COMMAND...
    name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    began=$(date +%s)
    timeout "$limit" "$@" >"$output/$name.log" 2>&1
    code=$?
    echo "   exit code $code after $(($(date +%s) - began)) s; the end of $output/$name.log:"
    tail -n 25 "$output/$name.log"
}

bench() { # NAME SECONDS ARGUMENTS OF fastgen bench ...
    name=$1 limit=$2
    shift 2
    step "$name" "$limit" python -m fastgen.cli bench "$@" --output "$output/$name"
}

tests() { step tests 300 python -m pytest -q -m gpu; }

# Small Inception on random labels to 100 %: wanted under 60 seconds.
overfit() {
    step overfit 300 python -m fastgen.cli train recipe=cifar10_inception_random "run.dir=$output/overfit" \
        run.checkpoint_minutes=60
}

small() { bench small 300 train --only "inception;alexnet;mlp_1x512;mlp_3x512" --steps 400; }

# Inception V3, 299 pixels: training from baked files wanted at 0.98 of the synthetic limit, stalled for under 1 %. An
# epoch as long as the measurement: ImageNet's are longer.
large() {
    for workload in "inception_v3 299 dali" "inception_v3 299 ffcv" "resnet50 224 dali" "resnet50 224 ffcv"; do
        bench "large_$(echo "$workload" | tr ' ' _)" 400 train --steps 60 --samples 16640 --repeats 1 --only "$workload"
    done
}

loaders() {
    for size in 224 299; do
        bench "loaders_$size" 580 loaders --size $size --batch 256 --samples 8192 --repeats 1 \
            --only "fastgen dali;DALI;fastgen ffcv;FFCV;fastgen dali, small;fastgen ffcv, small;timm;torchvision, PIL"
    done
}

peers() { bench peers 200 peers --precision bf16; }

# How many runs at a time raise the total throughput of one GPU, and by how much.
jobs() {
    step jobs 580 python benchmarks/jobs.py --jobs 1,2,4,8 --points 8 --repeats 1 --recipe cifar10_inception_random \
        --json "$output/jobs.json" train.epochs=4 train.evaluate_epochs=4
}

table1() { step table1 580 python -m fastgen.cli reproduce table1 --output "$output/table1"; }

kernels() { step kernels 300 python -m fastgen.cli reproduce table3 --models mnist --output "$output/table3"; }

[ $# -gt 0 ] || set -- tests overfit small large loaders peers jobs kernels table1
for each in "$@"; do
    $each
done

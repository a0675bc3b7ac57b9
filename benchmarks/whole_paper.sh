#!/bin/sh
# All of the paper that a machine without a GPU can run, in order of priority: one training for each core, at the
# lowest priority, so that it can go on beside other work. The same command resumes what was stopped, from
# checkpoints, and repeats nothing; Ctrl-C or SIGTERM stop it. benchmarks/record_runs.py then keeps what proves the
# results.
#
#     sh benchmarks/whole_paper.sh [FOLDER]     (default ~/fastgen_paper)
where=$(realpath -m "${1:-$HOME/fastgen_paper}")
cd "$(dirname "$0")/.." && mkdir -p "$where" || exit 1
python=.venv/bin/python
[ -x $python ] || python=python
$python -c "import fastgen.cli" || exit 1
renice -n 19 $$ > /dev/null
# Linux groups processes by session, and niceness counts within a group alone.
{ echo 19 > /proc/$$/autogroup; } 2> /dev/null
child=
trap 'trap "" INT TERM; [ -n "$child" ] && kill -TERM "$child" && wait "$child"; exit 143' INT TERM

# In the background, as a shell hears of a signal only between commands or while it waits.
fastgen() {
    $python -m fastgen.cli "$@" &
    child=$!
    wait "$child"
    child=
}
reproduce() {
    fastgen reproduce "$@" --output "$where" train.threads=1
}
# One row of a table: its folder is named as reproduce names it.
row() {
    fastgen sweep recipe="$@" --output "$where/runs" train.threads=1
}
# Compiled, the small Inception trains up to 1.07 times as many images a second on a CPU (docs/bench.md).
long_row() {
    row "$1" train.compile=true
}

# The MLPs, whole: one seed, figures 1b and 1c, three seeds.
reproduce table1 --models mlp_3x512,mlp_1x512
reproduce fig1b --models mlp_1x512
reproduce fig1c --models mlp_1x512
reproduce table4 --models mlp_3x512,mlp_1x512
reproduce table1 --models mlp_3x512,mlp_1x512 --seeds 0,1,2
reproduce table4 --models mlp_3x512,mlp_1x512 --seeds 0,1,2
# Pixels permuted before the crop or after it.
for pixels in shuffled random; do
    row "cifar10_mlp_1x512_${pixels}_pixels" data.pixels.before_crop=true,false
done
# AlexNet's rows, and the paper's headline: the small Inception on random labels.
for labels in random true true_decay random_decay true_crop true_crop_decay; do
    row "cifar10_alexnet_$labels"
done
long_row cifar10_inception_random
long_row cifar10_inception_true
# Other coefficients of weight decay, on the rows that they move.
for labels in true random; do
    row "cifar10_alexnet_${labels}_decay" optim.decay_on=all optim.weight_decay=5e-4
    row "cifar10_mlp_1x512_${labels}_decay" optim.decay_on=all optim.weight_decay=5e-4,4e-3
done
# The theory.
for study in theorem1 minnorm table3_bandwidth; do
    fastgen reproduce $study --output "$where"
done
fastgen reproduce table3 --models mnist,mnist_gabor,cifar10 --output "$where"
# Of the paper's 32,000 filters, which take a GPU a minute and two cores hours, and with what is chosen for so many.
fastgen reproduce table3 --models cifar10_convnet kernel.filters=2000 kernel.gamma=0.25 kernel.ridge=0.01 \
    --output "$where"
# The other rows and figures.
reproduce rademacher --models mlp_1x512,mlp_3x512
long_row cifar10_inception_nobn_true
long_row cifar10_inception_nobn_random
reproduce table1 --models alexnet --seeds 0,1,2
reproduce fig1b --models alexnet
reproduce fig1a train.compile=true
reproduce table1 --models inception train.compile=true
reproduce table4 --models inception train.compile=true
reproduce table1 --models inception_nobn train.compile=true
reproduce fig2b train.compile=true
reproduce fig1b --models inception train.compile=true

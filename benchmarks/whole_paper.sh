#!/bin/sh
# All of the paper that a machine without a GPU can run, in order of priority: one training for each core, at the
# lowest priority, so that it can go on beside other work. The same command resumes what was stopped, from
# checkpoints, and repeats nothing. $1: where runs and pages lie (default ~/fastgen_paper).
where=${1:-$HOME/fastgen_paper}
mkdir -p "$where"
renice -n 19 $$ > /dev/null
# Linux groups processes by terminal or session, and niceness counts within a group alone.
{ echo 19 > /proc/$$/autogroup; } 2> /dev/null

reproduce() {
    python -m fastgen.cli reproduce "$@" --output "$where" train.threads=1
}

reproduce table1 --models mlp_3x512,mlp_1x512 --seeds 0,1,2
reproduce table4 --models mlp_3x512,mlp_1x512 --seeds 0,1,2

"""Writes what a process's network says of one image, with dropout and without: log_masks.py PREFIX recipe=NAME ..."""

import json
import sys
from pathlib import Path

import torch

from fastgen.recipe.load import parse
from fastgen.runs.folder import RunLock
from fastgen.training.prepare import prepare

with RunLock() as lock:
    run = prepare(parse(sys.argv[2:]), lock)
    image = torch.ones(1, 3, run.data.image_size, run.data.image_size)
    outputs = {mode: run.bare.train(mode == "training")(image).tolist() for mode in ("training", "evaluation")}
    Path(f"{sys.argv[1]}-{run.accelerator.process_index}.json").write_text(json.dumps(outputs))

"""Writes what a process's network says of one image, with dropout and without, and a buffer that differs by process,
after a look whether the training set is fitted: log_masks.py PREFIX recipe=NAME ..."""

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
    run.bare.register_buffer("statistic", torch.tensor(float(run.accelerator.process_index)))
    run.evaluator.reaches(100.0, lambda batch: False)
    outputs["buffer"] = run.bare.statistic.item()
    Path(f"{sys.argv[1]}-{run.accelerator.process_index}.json").write_text(json.dumps(outputs))

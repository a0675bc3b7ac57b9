"""Started by a test with accelerate launch: writes which samples this process trains on and evaluates, in two epochs.

python log_indices.py OUT BACKEND [key=value ...]
"""

import json
import sys
from pathlib import Path

from fastgen.recipe.load import load
from fastgen.training.data import open_data
from fastgen.training.launch import make_accelerator

out, backend, *settings = sys.argv[1:]
recipe = load(
    "imagenet_inception_random",
    [f"data.backend={backend}", "model.name=fastgen_mlp_1x512", "model.options={}", *settings],
)
accelerator = make_accelerator(recipe)
data = open_data(accelerator, recipe)
seen: dict[str, list[list[int]]] = {"training": [], "train": [], "val": []}
for epoch in range(2):
    seen["training"].append([i for batch in data.training(epoch) for i in batch.index.tolist()])
    for split in ("train", "val"):
        seen[split].append([i for batch in data.evaluation(split) for i in batch.index.tolist()])
Path(f"{out}-{accelerator.process_index}.json").write_text(json.dumps(seen))
accelerator.wait_for_everyone()
accelerator.end_training()

"""Every recipe runs."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from whole_runs import fresh_accelerate, importorskip_backend, weights  # noqa: F401

from fastgen.recipe.load import known_recipes, load
from fastgen.sets import bake_recipe
from fastgen.training.loop import train

SUMMARY_KEYS = {
    "recipe", "seed", "params", "epochs", "steps", "train_top1", "train_top1_clean_part",
    "train_top1_corrupted_part", "train_loss", "test_top1", "test_top5", "best_test_top1", "interpolation_epoch",
    "images_per_second", "data_stall_fraction", "wall_seconds", "manifest_sha256",
}  # fmt: skip


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_runs_two_steps(name, tmp_path):
    recipe = load(name)
    importorskip_backend(recipe.data.backend)
    large = recipe.data.source == "imagenet"  # seconds for an image
    samples, test_samples, batch = (4, 2, 2) if large else (32, 10, 16)
    overrides = ["train.max_steps=2", f"data.limit={samples}", f"data.limit_test={test_samples}"]
    data = os.environ.get("FASTGEN_DATA", "")
    if recipe.data.source != "digits" and not (Path(data) / recipe.data.source).is_dir():
        overrides += ["data.source=synthetic", f"data.synthetic.samples={samples}", f"data.synthetic.jpeg={large}"]
        overrides += [f"data.synthetic.test_samples={test_samples}", "data.synthetic.size=64"]
    if recipe.data.labels.kind == "table":  # of a file that is published, for a data set that is not here
        np.save(tmp_path / "labels.npy", np.arange(samples) % 10)
        overrides += [f"data.labels.file={tmp_path / 'labels.npy'}", "data.labels.name=null"]
    if large and name != "imagenet_inception_random":  # as large as they are
        overrides += ["data.image_size=96", "data.progressive.start_size=null", "data.eval_size=null"]
        if recipe.model.options.get("aux_logits"):  # which needs 299 pixels
            overrides += ["model.options={aux_logits: false}", "train.aux_weight=0"]
    summary = train(load(name, [*overrides, f"data.batch_size={batch}", f"run.dir={tmp_path / 'run'}"]))
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written == asdict(summary) and written.keys() >= SUMMARY_KEYS
    assert summary.steps == 2 and summary.status == "finished"
    assert 0 <= summary.train_top1 <= 100 and math.isfinite(summary.train_loss)
    for file in ("recipe.yaml", "manifest.json", "metrics.jsonl"):
        assert (tmp_path / "run" / file).stat().st_size > 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_any_timm_model_works(name, tmp_path):
    """Its checkpoint is timm's own network, which gives the loss and the accuracy that the run measured."""
    size = 32 if name.startswith("vit") else 16
    settings = [f"model.name={name}", "train.max_steps=4", "data.source=synthetic", f"data.synthetic.size={size}",
                "data.limit=64", "data.limit_test=16", "data.batch_size=32", f"run.dir={tmp_path / 'run'}"]  # fmt: skip
    recipe = load("quickstart", settings)
    summary = train(recipe)
    network = timm.create_model(name, num_classes=10, **({"img_size": size} if name.startswith("vit") else {})).eval()
    assert summary.params == sum(parameter.numel() for parameter in network.parameters())
    network.load_state_dict(weights(tmp_path / "run"))
    stored = bake_recipe(recipe).splits["train"]
    images = torch.from_numpy(stored.raw_images()).permute(0, 3, 1, 2) / 255
    images = images - images.mean((1, 2, 3), keepdim=True)
    with torch.no_grad():
        logits = network(images / images.std((1, 2, 3), correction=0, keepdim=True))
    labels = torch.from_numpy(stored.columns[recipe.data.labels.column_name].astype(np.int64))
    assert summary.train_loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert summary.train_top1 == 100 * (logits.argmax(1) == labels).float().mean()

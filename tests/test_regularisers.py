"""Today's regularisers: mixed batches, RandAugment, stochastic depth. What is drawn, from what, and what is counted."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torchvision.transforms import v2
from whole_runs import SMALL, StopAfter, fresh_accelerate, lines, same_weights, weights  # noqa: F401

from fastgen.recipe.load import load
from fastgen.recipe.schema import TrainSpec
from fastgen.training.data import open_data
from fastgen.training.loop import train
from fastgen.training.mixing import Mixer
from fastgen.training.network import make_network
from fastgen.training.objective import training_loss
from fastgen.training.watching import Watcher
from pipelines.errors import UserError
from pipelines.view.augment import Preprocess
from pipelines.view.preparation import AugmentSpec, NormalizeSpec
from pipelines.view.rand_augment import RandAugment

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(8, 3, 12, 12, generator=GENERATOR).to(memory_format=torch.channels_last)
LABELS = torch.tensor([0, 1, 2, 3, 3, 4, 1, 2])
PIXELS = torch.randint(256, (64, 3, 12, 12), generator=GENERATOR, dtype=torch.uint8)


def mixed(seed=0, step=0, micro=0, **alphas):
    return Mixer(TrainSpec(**alphas), 5, 8, seed)(IMAGES.clone(), LABELS, step, micro)


def test_mixup_blends_images_and_labels_in_the_same_shares():
    images, targets = mixed(mixup=1.0)
    hot = F.one_hot(LABELS, 5).float()
    share = targets[0, 0].item()  # of label 0, which the other image has not
    assert 0 < share < 1
    torch.testing.assert_close(targets, share * hot + (1 - share) * hot.flip(0))
    torch.testing.assert_close(images, share * IMAGES + (1 - share) * IMAGES.flip(0))


def test_cutmix_has_each_label_by_its_part_of_the_pixels():
    for step in range(5):
        images, targets = mixed(cutmix=1.0, step=step)
        own = (images == IMAGES).all(1)
        assert torch.equal(images, torch.where(own[:, None], IMAGES, IMAGES.flip(0)))
        hot, part = F.one_hot(LABELS, 5).float(), own.float().mean((1, 2))[:, None]
        torch.testing.assert_close(targets, part * hot + (1 - part) * hot.flip(0))


@pytest.mark.parametrize("alphas", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_shares_are_a_function_of_seed_step_and_micro_batch(alphas):
    np.random.seed(5)  # noqa: NPY002
    first = mixed(**alphas)
    drawn = np.random.rand()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    assert all(map(torch.equal, first, mixed(**alphas)))
    np.random.seed(5)  # noqa: NPY002
    assert drawn == np.random.rand()  # noqa: NPY002 (what others draw is as if nothing had been mixed)
    shares = [
        mixed(**alphas, **other)[1][0].tolist() for other in ({}, {"seed": 1}, {"step": 1}, {"micro": 1}, {"step": 2})
    ]
    assert len({tuple(share) for share in shares}) > 3


def test_the_loss_of_mixed_labels_is_smoothed_as_others_are():
    logits, targets = torch.randn(8, 5, generator=GENERATOR), mixed(mixup=1.0)[1]
    smoothed = 0.9 * targets + 0.1 / 5
    expected = -(smoothed * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(training_loss(logits, targets, TrainSpec(label_smoothing=0.1)), expected)
    whole = F.one_hot(LABELS, 5).float()
    plain = training_loss(logits, LABELS, TrainSpec(label_smoothing=0.1))
    torch.testing.assert_close(training_loss(logits, whole, TrainSpec(label_smoothing=0.1)), plain)


REGULARISED = {
    "mixed": ["train.mixup=0.4", "train.cutmix=1.0", "train.label_smoothing=0.1"],
    "RandAugment": ["data.augment.rand_ops=2"],
    "mixed in micro-batches": ["train.mixup=1.0", "data.batch_size=32", "train.accumulate=2"],
}  # stochastic depth draws as dropout does, which SMALL has


@pytest.mark.parametrize("name", REGULARISED)
def test_a_resumed_run_is_its_twin(name, tmp_path):
    settings = [*SMALL, *REGULARISED[name]]
    train(load("quickstart", [*settings, f"run.dir={tmp_path / 'whole'}"]))
    AcceleratorState._reset_state(True)
    with pytest.raises(SystemExit):
        train(load("quickstart", [*settings, f"run.dir={tmp_path / 'stopped'}"]), [StopAfter(4)])
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*settings, f"run.dir={tmp_path / 'stopped'}", "run.resume=true"]))
    assert same_weights(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    key = "train_running_mixed_loss_nats" if "mixed" in name else "train_running_loss_nats"
    assert lines(tmp_path / "stopped", key) == lines(tmp_path / "whole", key) != {}


def test_hits_on_mixed_images_are_told_apart_from_accuracy(tmp_path):
    """The running hits are on the label with the larger share; evaluations are on each image as it is, as labelled."""
    seen = []

    class Look(Watcher):
        def batch(self, batch, logits, loss):
            seen.append(100 * (logits.argmax(1) == batch.label).float().mean().item())

    settings = [*SMALL, "train.mixup=1.0", "model.dropout=0", f"run.dir={tmp_path / 'run'}"]
    recipe = load("quickstart", settings)
    summary = train(recipe, [Look()])
    assert list(lines(tmp_path / "run", "train_running_mixed_top1_percent").values()) == pytest.approx(seen)
    assert not lines(tmp_path / "run", "train_running_top1_percent")
    AcceleratorState._reset_state(True)
    data = open_data(Accelerator(cpu=True), recipe)
    network = make_network(recipe, data.classes, 3, 10, torch.device("cpu")).eval()
    network.load_state_dict(weights(tmp_path / "run"))
    with torch.no_grad():
        hits = [
            (network(data.prepare_eval(batch.images, batch.index)).argmax(1) == batch.label).float()
            for batch in data.evaluation("train")
        ]
    assert summary.train_top1 == pytest.approx(100 * torch.cat(hits).mean().item())


def test_an_odd_batch_cannot_be_paired(tmp_path):
    settings = [*SMALL, "train.cutmix=1.0", "data.batch_size=15", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="pair the samples of a batch, and a process has 15 of each: set data.batch"):
        train(load("quickstart", settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.mixup=-1"], "train.mixup=-1.0 must be at least 0"),
        (["train.cutmix=-0.5"], "train.cutmix=-0.5 must be at least 0"),
        (["train.mixup=1", "train.dynamics=true"], "train.dynamics=true records how each sample is learned"),
        (["train.cutmix=1", "train.dynamics=true"], "mixtures of two; leave one of them out"),
        (["data.augment.rand_ops=-1"], "data.augment.rand_ops=-1 must be 0 to 14"),
        (["data.augment.rand_ops=15"], "data.augment.rand_ops=15 must be 0 to 14"),
        (["data.augment.rand_ops=2", "data.augment.rand_magnitude=31"], "rand_magnitude=31 must be 0 to 30"),
        (["data.augment.rand_magnitude=5"], "rand_magnitude has no effect without data.augment.rand_ops"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        load("quickstart", settings)


# ---------------------------------------------------------------- RandAugment


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_is_a_function_of_seed_epoch_and_sample(channels):
    pixels, index = PIXELS[:, :channels], torch.arange(64) + 2**33
    state = torch.get_rng_state()
    change = RandAugment(2, 9, seed=3)
    found = change(pixels, index, 5)
    assert torch.equal(torch.get_rng_state(), state)  # what others draw is as if nothing had been changed
    assert found.dtype == torch.uint8 and found.shape == pixels.shape
    order = torch.randperm(64, generator=GENERATOR)[:17]
    assert torch.equal(RandAugment(2, 9, seed=3)(pixels[order], index[order], torch.tensor(5)), found[order])
    for other in (RandAugment(2, 9, 4)(pixels, index, 5), change(pixels, index, 6), change(pixels, index - 2**33, 5)):
        assert not torch.equal(other, found)
    assert torch.equal(pixels, PIXELS[:, :channels])


def test_rand_augments_changes_are_torchvisions_each_as_often_as_another():
    """Each image is one of those that torchvision makes of it, and over epochs a sample comes by all of them."""
    image = PIXELS[:1]
    torch.manual_seed(0)
    one = v2.RandAugment(1, 9)
    known = {one(image).numpy().tobytes() for _ in range(300)}
    change, epochs = RandAugment(1, 9, seed=0), 150
    drawn = [change(image, torch.tensor([7]), epoch).numpy().tobytes() for epoch in range(epochs)]
    assert set(drawn) <= known and len(set(drawn)) > len(known) - 3
    same = drawn.count(image.numpy().tobytes()) / epochs
    assert same == pytest.approx(2 / 14, abs=0.06)  # Identity, and AutoContrast of an image with all brightnesses
    both = torch.cat([image, image])
    alike = np.mean([torch.equal(*change(both, torch.tensor([1, 2]), epoch).split(1)) for epoch in range(epochs)])
    assert alike < 0.25  # two samples are seldom changed alike: by chance, or as they fall into one of 16 groups


def test_rand_augment_comes_after_crop_and_flip_and_in_training_alone():
    spec, scale = AugmentSpec(random_crop=True, flip=True, rand_ops=2, rand_magnitude=15), NormalizeSpec("scale")
    index = torch.arange(64)
    before = Preprocess(10, AugmentSpec(random_crop=True, flip=True), scale, 1, True)(PIXELS, index, 2)
    expected = RandAugment(2, 15, 1)((before * 255).round().to(torch.uint8), index, 2) / 255
    torch.testing.assert_close(Preprocess(10, spec, scale, 1, True)(PIXELS, index, 2), expected)
    plain = Preprocess(10, AugmentSpec(), scale, 1, False)(PIXELS, index)
    assert torch.equal(Preprocess(10, spec, scale, 1, False)(PIXELS, index), plain)


# ---------------------------------------------------------------- stochastic depth


def test_stochastic_depth_is_timms():
    recipe = load("quickstart", ["model.name=resnet18", "model.options.drop_path_rate=0.2"])
    network = make_network(recipe, 10, 3, 28, torch.device("cpu"))
    rates = [module.drop_prob for module in network.modules() if isinstance(module, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.2) and len(rates) > 4
    recipe = load("quickstart", ["model.name=fastgen_alexnet", "model.options.drop_path_rate=0.2"])
    with pytest.raises(UserError, match="fastgen_alexnet cannot be made .*drop_path_rate"):
        make_network(recipe, 10, 3, 28, torch.device("cpu"))

"""What `import fastgen` offers: trainings, sets, batches and trained networks, by Python's values."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pandas
import pytest
import timm
import torch
from whole_runs import fresh_accelerate  # noqa: F401 (a fixture)

import fastgen
from pipelines.errors import UserError

TINY = {"data.limit": 200, "data.batch_size": 50, "train.threads": 1, "train.epochs": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training whose weights are averaged, of random labels."""
    folder = tmp_path_factory.mktemp("run") / "it"
    keys = TINY | {"data.labels.kind": "partial", "data.labels.p": np.float64(0.5), "train.ema": 0.9, "run.dir": folder}
    return fastgen.train("quickstart", **keys)


def test_a_training_returns_its_run(run):
    assert run.summary.status == "finished" and run.summary.epochs == 3 and run.settings["data.labels.p"] == 0.5
    again = fastgen.load_run(run.folder)
    assert again == run and again.summary == run.summary
    assert isinstance(run.metrics, pandas.DataFrame) and len(run.metrics) == len(run.lines)
    assert run.metrics["test_top1_percent"].dropna().iloc[-1] == run.summary.test_top1


def test_its_predictions_are_those_of_its_last_evaluation(run):
    train, test = run.predictions("train"), run.predictions("test")
    assert train.top1 == pytest.approx(run.summary.train_top1) and test.top1 == pytest.approx(run.summary.test_top1)
    corrupted = train.label != train.clean_label
    assert 60 < corrupted.sum() < 120  # half of the labels are drawn anew, and a tenth of those keeps its class
    part = 100 * (train.predicted == train.label)[corrupted].mean()
    assert part == pytest.approx(run.summary.train_top1_corrupted_part)
    assert np.array_equal(train.index, np.arange(200)) and np.array_equal(test.label, test.clean_label)
    assert train.probabilities.shape == (200, 10) and np.allclose(train.probabilities.sum(1), 1, atol=1e-5)
    with pytest.raises(UserError, match="has no split 'valid'.*known: test, train"):
        run.predictions("valid")


def test_its_weights_are_timms(run, tmp_path):
    made = timm.create_model(**run.timm, checkpoint_path=run.weights)
    assert not same(made, run.network)  # these are averaged
    folder = run.save_for_hub(tmp_path / "hub")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert same(loaded, run.network)
    again = timm.create_model(**run.timm, checkpoint_path=folder / "model.safetensors")
    assert same(again, run.network)
    assert json.loads((folder / "config.json").read_text())["label_names"] == [str(digit) for digit in range(10)]
    assert loaded.pretrained_cfg["input_size"] == (1, 8, 8) and "whitened" in loaded.pretrained_cfg["description"]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    others = other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.state_dict().items())


def test_a_network_of_timms_is_saved_with_what_its_input_is(tmp_path, monkeypatch):
    keys = TINY | {"model.name": "resnet10t", "data.normalize.kind": "channel", "data.normalize.mean": [0.5]}
    keys |= {"data.normalize.std": [0.25], "data.view.fraction": 0.8, "data.image_size": 16, "train.max_steps": 1}
    run = fastgen.train("quickstart", **keys)
    assert run.timm == {"model_name": "resnet10t", "num_classes": 10, "in_chans": 1, "drop_rate": 0.0}
    assert run.predictions("test").top1 == pytest.approx(run.summary.test_top1)
    loaded = timm.create_model(f"local-dir:{run.save_for_hub(tmp_path / 'hub')}", pretrained=True)
    assert same(loaded, run.network)
    told = timm.data.resolve_data_config({}, model=loaded)
    assert (told["input_size"], told["crop_pct"], told["interpolation"]) == ((1, 16, 16), 0.8, "bilinear")
    assert (tuple(told["mean"]), tuple(told["std"])) == ((0.5,), (0.25,))
    assert "license" not in loaded.pretrained_cfg and "tag" not in loaded.pretrained_cfg  # of other weights
    pushed = {}
    monkeypatch.setattr("timm.models.push_to_hf_hub", lambda *given, **options: pushed.update(options, given=given))
    run.push_to_hub("me/it", private=True)
    assert pushed["given"] == (run.network, "me/it") and pushed["private"]
    assert pushed["model_card"]["description"].startswith("Trained by fastgen: fastgen train recipe=quickstart")


def test_trainings_follow_each_other_in_one_process_and_in_a_thread():
    keys = TINY | {"train.epochs": 1}
    runs = [fastgen.train("quickstart", **keys, **{"train.precision": how}) for how in ("fp32", "bf16")]
    thread = threading.Thread(target=lambda: runs.append(fastgen.train("quickstart", **keys)))
    thread.start()
    thread.join()
    assert len({run.folder for run in runs}) == 3
    assert runs[0].summary.train_loss == runs[2].summary.train_loss != runs[1].summary.train_loss


def test_ctrl_c_is_pythons(monkeypatch):
    def interrupted(recipe):
        raise SystemExit(130)

    monkeypatch.setattr("fastgen.training.loop.train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastgen.train("quickstart")


@pytest.fixture(scope="module")
def opened():
    return fastgen.open("quickstart", **TINY | {"data.augment.random_crop": True, "data.image_size": 6})


def columns(batches):
    found = list(batches)
    return [torch.cat([getattr(b, name) for b in found]) for name in ("images", "label", "clean_label", "index")]


def test_a_stream_is_the_one_that_a_training_sees(opened):
    for epoch in range(2):
        assert len(opened.batches(epoch=epoch)) == 4
        images, label, clean, index = columns(opened.batches(epoch=epoch))
        assert sorted(index.tolist()) == list(range(200)) and (label != clean).any()
        assert images.shape == (200, 1, 6, 6) and images.dtype == torch.float32
        assert torch.allclose(images.flatten(1).mean(1), torch.zeros(200), atol=1e-5)  # whitened
        rest = opened.batches(epoch=epoch, step=3)
        assert len(rest) == 1 and torch.equal(columns(rest)[0], images[150:])
        assert torch.equal(columns(rest)[0], images[150:])  # again, when it is iterated again
        parts = [opened.batches(epoch=epoch, rank=rank, world_size=2) for rank in range(2)]
        both = [torch.cat(batches) for batches in zip(*([b.index for b in part] for part in parts), strict=True)]
        assert torch.equal(torch.cat(both), index)
    orders = [columns(opened.batches(epoch=e, seed=s))[3].tolist() for e, s in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(order) for order in orders}) == 3
    raw = next(iter(opened.batches(raw=True, batch_size=20)))
    assert raw.images.shape == (20, 1, 8, 8) and raw.images.dtype == torch.uint8


def test_two_streams_at_a_time_do_not_disturb_each_other(opened):
    pairs = list(zip(opened.batches(epoch=0), opened.batches(epoch=1), strict=True))
    for epoch in range(2):
        seen = torch.cat([pair[epoch].index for pair in pairs])
        assert torch.equal(seen, columns(opened.batches(epoch=epoch))[3])


def test_evaluation_sees_each_sample_once_in_order(opened):
    assert opened.samples == {"train": 200, "val": 360} and opened.class_names == [str(digit) for digit in range(10)]
    for split in ("test", "val"):
        images, label, clean, index = columns(batches := opened.batches(split, batch_size=100))
        assert len(batches) == 4 and len(index) == 360 and torch.equal(label, clean)
        assert torch.equal(columns(opened.batches(split, batch_size=100, step=3))[0], images[300:])
    given = columns(opened.batches("train", shuffle=False, batch_size=64))
    assert len(given[3]) == 200 and (given[1] != given[2]).any()


def test_a_set_is_opened_by_its_path():
    kinds = [{"kind": "random", "seed": seed} for seed in range(2)]
    baked = fastgen.bake("quickstart", **TINY | {"bake.columns": kinds, "data.labels.kind": "true"})
    assert baked.manifest.splits["train"].samples == 200 and baked.splits["train"].image(0).shape == (8, 8, 3)
    opened = fastgen.open(baked.path, **{"data.normalize.kind": "scale"})
    with pytest.raises(UserError, match="several labellings; name one: labels=.*label_true"):
        opened.batches()
    images, label, clean, index = columns(opened.batches(labels="label_true", batch_size=50))
    assert torch.equal(label, clean) and images.min() >= 0 and images.max() == 1
    _, other, clean, again = columns(opened.batches(labels="random_1_s1", batch_size=50))
    assert torch.equal(again, index) and 0.8 < (other != clean).float().mean() < 0.97
    assert repr(opened) == f"OpenSet({baked.path}: 200 train, 360 val, 10 classes)"


def call(what, keys):
    return lambda opened: getattr(fastgen, what)("quickstart", **keys)


WRONG = {
    "recipe": (
        lambda opened: fastgen.train("quickstrat"),
        "unknown recipe 'quickstrat': did you mean recipe=quickstart?",
    ),
    "key": (call("train", {"optim.learning_rate": 1}), "unknown key 'optim.learning_rate'; did you mean 'optim.lr'?"),
    "type": (call("bake", {"data.limit": "many"}), "data.limit=many: Value 'many'"),
    "object": (call("open", {"seed": {1, 2}}), "seed={1, 2} is no value that a recipe can hold"),
    "model": (call("train", {"model.name": "resnet19"}), "model.name"),
    "no set": (lambda opened: fastgen.open("./nothing"), "nothing is no baked set"),
    "no name": (lambda opened: fastgen.open("nothing"), "unknown recipe 'nothing'"),
    "no run": (lambda opened: fastgen.load_run("."), ". is no run directory \\(it has no recipe.yaml\\)"),
    "made": (lambda opened: fastgen.open(opened.baked.path, **{"bake.encoding": "raw"}), "how a set is made"),
    "split": (lambda opened: opened.batches("valid"), "has no split 'valid': did you mean 'val'\\? known: train, val"),
    "shuffled": (lambda opened: opened.batches("val", shuffle=True), "shuffle=True is for the split train"),
    "step": (lambda opened: opened.batches(step=5), "step=5 is beyond the epoch's 4 batches"),
    "epoch": (lambda opened: opened.batches(epoch=-1), "epoch=-1 must be a whole number from 0 on"),
    "batch": (
        lambda opened: opened.batches(batch_size=201),
        "data.batch_size=201 is larger than the 200 samples to train on",
    ),
    "backend": (lambda opened: opened.batches(backend="fcv"), "unknown data.backend 'fcv': did you mean 'ffcv'"),
    "device": (lambda opened: opened.batches(device="gpu"), "device='gpu' is none that PyTorch has here"),
    "labels": (lambda opened: opened.batches(labels="label_ture"), "has no label column 'label_ture'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_one_line(what, opened):
    wrong, text = WRONG[what]
    with pytest.raises(fastgen.UserError, match=text) as caught:
        wrong(opened)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"UserError: {caught.value}"]  # what a notebook shows
    assert not list(Path().glob("*/*"))  # no run directory


def test_a_run_without_checkpoint_or_pandas_says_so(run, monkeypatch, tmp_path):
    for name in ("recipe.yaml", "manifest.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    begun = fastgen.load_run(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        _ = begun.network
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="metrics needs pandas: pip install pandas"):
        _ = begun.metrics

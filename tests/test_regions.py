"""Regions: torchvision's and TensorFlow's rules, reproducible by sample."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from pipelines.errors import UserError
from pipelines.view.regions import View, ViewSpec

N = 20_000
INDEX = np.arange(N)
HEIGHT, WIDTH = np.full(N, 375), np.full(N, 500)
RANDOM = ["area", "tensorflow"]


def draw(random, epoch=0, seed=0, index=INDEX, height=375, width=500, **spec):
    view = View(ViewSpec(0.875, random=random, **spec), 224, seed, epoch)
    return view.regions(index, np.full(len(index), height), np.full(len(index), width)).astype(np.int64)


@pytest.mark.parametrize("random", RANDOM)
@pytest.mark.parametrize("size", [(375, 500), (500, 60), (1, 1), (3, 900), (299, 299)])
def test_regions_lie_in_the_image(random, size):
    top, left, rows, columns = draw(random, height=size[0], width=size[1]).T
    assert (rows >= 1).all() and (columns >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + rows <= size[0]).all() and (left + columns <= size[1]).all()


@pytest.mark.parametrize("random", RANDOM)
def test_a_region_belongs_to_seed_epoch_and_sample(random):
    whole = draw(random)
    some = np.array([7, 19_999, 3, 7])
    assert np.array_equal(draw(random, index=some), whole[some])
    for other in (draw(random, epoch=1), draw(random, seed=1)):
        assert (other != whole).any(1).mean() > 0.99
    assert (draw(random, epoch=1) != draw(random, seed=1)).any(1).mean() > 0.99


@pytest.mark.parametrize("random", RANDOM)
def test_area_and_aspect_are_in_range_and_use_it(random):
    top, left, rows, columns = draw(random, area=[0.2, 0.8]).T
    area, aspect = rows * columns / (375 * 500), columns / rows
    assert 0.19 < area.min() < 0.21 and 0.77 < area.max() < 0.81
    assert 0.74 < aspect.min() < 0.77 and 1.31 < aspect.max() < 1.35
    assert top.min() == 0 and left.min() == 0 and (top + rows).max() == 375 and (left + columns).max() == 500


def test_area_follows_torchvision():
    """The distributions of height, width, top and left against RandomResizedCrop's own draws."""
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(N)])
    ours = draw("area")
    for at in range(4):
        levels = np.linspace(0.05, 0.95, 10)
        assert np.abs(np.quantile(ours[:, at], levels) - np.quantile(theirs[:, at], levels)).max() < 8


def test_tensorflow_covers_a_tenth_of_the_image_and_draws_the_height_uniformly():
    _, _, rows, columns = draw("tensorflow", area=[0.05, 1.0], aspect=[1.0, 1.0], height=400, width=400).T
    assert (rows == columns).all() and (rows * columns >= 0.1 * 400 * 400).all()
    low = int(np.ceil(np.sqrt(0.1) * 400))
    histogram, _ = np.histogram(rows, bins=8, range=(low, 401))
    assert rows.min() == low and rows.max() == 400
    assert np.abs(histogram / N - 1 / 8).max() < 0.01


def test_central_regions():
    height, width = np.array([400, 300]), np.array([300, 400])
    square = View(ViewSpec(0.875), 224).regions(np.arange(2), height, width)
    assert square.tolist() == [[69, 19, 262, 262], [19, 69, 262, 262]]
    squeezed = View(ViewSpec(0.875, square=False), 224).regions(np.arange(2), height, width)
    assert squeezed.tolist() == [[25, 19, 350, 262], [19, 25, 262, 350]]
    # Evaluation and training without random regions see the same.
    assert View(ViewSpec(0.875), 224, epoch=3).regions(np.arange(2), height, width).tolist() == square.tolist()


@pytest.mark.parametrize(
    "spec, message",
    [
        (ViewSpec(1.5), "data.view.fraction=1.5"),
        (ViewSpec(0.875, random="aera"), "did you mean 'area'"),
        (ViewSpec(random="area"), "needs data.view.fraction"),
        (ViewSpec(0.875, area=[0.5, 0.1]), "data.view.area"),
        (ViewSpec(0.875, aspect=[0.0, 1.0]), "data.view.aspect"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(UserError, match=message):
        spec.validate()

"""The network of a recipe, one of timm's or the paper's, laid out and compiled for its device."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch.random import fork_rng

from fastgen import models
from fastgen.recipe.schema import ModelSpec, Recipe
from fastgen.training.objective import logits_of
from pipelines.errors import UserError

# What timm raises for options or images that a network cannot have.
_REFUSALS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, AssertionError, OSError)
_USUAL_SIZES = (32, 64, 96, 128, 224, 256, 299)  # pixels: sides of images, of which most networks take one
_OTHER_GRAPHS = 8  # beside those of each size of training images: evaluation's, and what a network itself lets vary


def make_network(recipe: Recipe, classes: int, channels: int, image_size: int, device: torch.device) -> torch.nn.Module:
    """A freshly initialised network for images (channels, image_size, image_size) on `device`.

    channels_last is on unless the recipe says otherwise: cuDNN and oneDNN convolve fastest in it.
    Raises UserError when timm refuses the recipe's options, or the network such images.
    """
    spec = recipe.model
    try:
        network = _made(recipe, classes, channels, image_size)
    except _REFUSALS as error:
        raise UserError(
            f"model.name={spec.name} cannot be made for {channels} x {image_size} x {image_size} images and "
            f"{classes} classes with model.options={spec.options}: {error}"
            f"{_larger(recipe, classes, channels, image_size)}"
        ) from error
    network = network.to(device)
    return network if recipe.train.channels_last is False else network.to(memory_format=torch.channels_last)


def check_network(recipe: Recipe, classes: int, channels: int, image_size: int) -> None:
    """Raises UserError as `make_network` would. Random numbers are drawn afterwards as if it had not been asked."""
    with fork_rng(devices=()):
        make_network(recipe, classes, channels, image_size, torch.device("cpu"))


def _made(recipe: Recipe, classes: int, channels: int, image_size: int) -> torch.nn.Module:
    """The network, which has classified an image of this size. Raises one of _REFUSALS."""
    spec = recipe.model
    arguments = arguments_of(spec, classes, channels)
    # models.make needs no timm, which takes seconds to import; but only timm understands options.
    if spec.name in models.NETWORKS and not spec.options:
        network: torch.nn.Module = models.make(spec.name, img_size=image_size, **arguments)
    else:
        network, _ = make_by_timm(spec.name, image_size, arguments)
    _try(network, channels, image_size, classes)
    return network


def _larger(recipe: Recipe, classes: int, channels: int, image_size: int) -> str:
    """The remedy where it is larger images that the network needs."""
    for size in _USUAL_SIZES:
        if size > image_size:
            with suppress(*_REFUSALS):
                _made(recipe, classes, channels, size)
                resized = recipe.data.view.fraction is not None
                bake = "" if resized else f" bake.resolution={size} bake.square=true"
                return f"; it takes {size} x {size}: data.image_size={size}{bake}"
    return ""


def _try(network: torch.nn.Module, channels: int, image_size: int, classes: int) -> None:
    """Classify a black image. Raises ValueError unless that gives logits, and what the network raises."""
    with torch.no_grad():
        output = logits_of(network.eval()(torch.zeros(1, channels, image_size, image_size)))
    network.train()
    if not isinstance(output, torch.Tensor) or output.shape != (1, classes):
        raise ValueError("it gives no logits of these classes")


def arguments_of(spec: ModelSpec, classes: int, channels: int) -> dict[str, Any]:
    """What timm.create_model is given beside the name and the images' size."""
    if given := {"num_classes", "in_chans"} & spec.options.keys():
        raise UserError(f"model.options.{min(given)} follows from the data; leave it out")
    return {"num_classes": classes, "in_chans": channels, "drop_rate": spec.dropout, **spec.options}


def make_by_timm(name: str, image_size: int, arguments: dict[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """timm's network, and the arguments that it was made with: the images' size is one where it depends on that."""
    import timm

    sized = {**arguments, "img_size": image_size}
    try:
        return timm.create_model(name, **sized), sized
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **arguments), arguments


def wants_compilation(recipe: Recipe, device: torch.device) -> bool:
    """torch.compile: by default for a GPU only, as on a CPU its start-up costs more than small networks gain."""
    return device.type == "cuda" if recipe.train.compile is None else recipe.train.compile


def compile_for_each_size(networks: Iterable[torch.nn.Module], sizes: Collection[int]) -> None:
    """torch.compile, anew for each of the sizes of images: kernels for any size are slower.

    PyTorch stops compiling at so many graphs of a function, and computes without. It may count the network and the
    preparation of its images as one function, and it counts for the process: what an earlier run compiled is dropped.
    """
    torch.compiler.reset()
    wanted = 2 * len(sizes) + _OTHER_GRAPHS
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, wanted)
    for network in networks:
        network.compile(dynamic=False)


def parameter_count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())

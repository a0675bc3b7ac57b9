"""The network of a recipe, from timm's registry, laid out and compiled for its device."""

import timm
import torch

import fastgen.models  # noqa: F401 (registers the paper's networks)
from fastgen.recipe import Recipe
from pipelines.registry import UserError


def make_network(recipe: Recipe, classes: int, channels: int, image_size: int, device: torch.device) -> torch.nn.Module:
    """A freshly initialised network for images (channels, image_size, image_size) on `device`.

    channels_last is on unless the recipe says otherwise: cuDNN and oneDNN convolve fastest in it.
    Raises UserError when timm refuses the recipe's options.
    """
    spec = recipe.model
    arguments = {"num_classes": classes, "in_chans": channels, "drop_rate": spec.dropout, **spec.options}
    try:
        try:
            network = timm.create_model(spec.name, img_size=image_size, **arguments)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            network = timm.create_model(spec.name, **arguments)  # a network for any size
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"model.name={spec.name} cannot be made for {channels} x {image_size} x {image_size} images and "
            f"{classes} classes with model.options={spec.options}: {error}"
        ) from error
    network = network.to(device)
    if recipe.train.channels_last is not False:
        network = network.to(memory_format=torch.channels_last)
    return network


def compile_network(network: torch.nn.Module, recipe: Recipe, device: torch.device) -> None:
    """torch.compile, in place: by default for a GPU only, as on a CPU its start-up costs more than small networks
    gain."""
    wanted = recipe.train.compile
    if wanted or (wanted is None and device.type == "cuda"):
        network.compile()


def parameter_count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())

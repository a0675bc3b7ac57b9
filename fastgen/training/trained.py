"""What a run has trained: its weights, what they predict, and timm's layout of them for the Hub."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastgen.recipe.load import load
from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import RECIPE, check_same_data
from fastgen.runs.run import Run
from fastgen.training import checkpoints
from fastgen.training.data import Data, data_of, open_engines, set_of
from fastgen.training.network import arguments_of, make_by_timm
from fastgen.training.objective import logits_of
from pipelines.durable import refusals
from pipelines.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Predictions:
    """What a network says of each sample of a split once, in order of the sample index.

    index, label, clean_label: int64 (N,): the sample, its given and its true label. probabilities: float32 (N,
    classes), softmax, in evaluation mode and single precision.
    """

    index: np.ndarray
    label: np.ndarray
    clean_label: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class: int64 (N,)."""
        return self.probabilities.argmax(1)

    @property
    def top1(self) -> float:
        """Percent of the samples that are classified as labelled."""
        return 100 * float((self.predicted == self.label).mean())


class TrainedRun(Run):
    """A run directory with what was trained in it. `summary`, `settings`, `lines` and `manifest` are read from it."""

    @cached_property
    def recipe(self) -> Recipe:
        """As it was resolved. Raises UserError for one of another version of fastgen."""
        return load(str(self.folder / RECIPE), ["track.wandb=off"])

    @cached_property
    def metrics(self) -> "pandas.DataFrame":
        """metrics.jsonl, a row for each line, NaN where it does not have a column. The names of columns hold their
        units; step and epoch (with fractions) say when. Raises UserError without pandas (`lines` needs none)."""
        try:
            import pandas
        except ImportError:
            raise UserError("metrics needs pandas: pip install pandas; without it, `lines` has the same") from None
        return pandas.DataFrame(self.lines)

    @property
    def checkpoint(self) -> Path:
        """The folder of the newest checkpoint. Raises UserError where there is none yet."""
        found = checkpoints.latest(self.folder / "checkpoints")
        if found is None:
            raise UserError(f"{self.folder} has no checkpoint yet; go on with it (fastgen resume {self.folder})")
        return found

    @property
    def weights(self) -> Path:
        """The newest checkpoint's safetensors file: `timm.create_model(**run.timm, checkpoint_path=run.weights)`.

        With train.ema these are the weights before they are averaged; `network` and `save_for_hub` have the averages.
        """
        return self.checkpoint / checkpoints.MODEL

    @cached_property
    def timm(self) -> dict[str, Any]:
        """What timm.create_model is given to make this network: model_name, num_classes, in_chans, ..."""
        return {"model_name": self.recipe.model.name, **self._made[1]}

    @cached_property
    def network(self) -> torch.nn.Module:
        """timm's network with the weights of the newest checkpoint (with train.ema their averages), on the CPU, in
        evaluation mode. It takes images as `fastgen.open(...).batches(...)` prepares them. Raises UserError."""
        network = self._made[0]
        network.load_state_dict(checkpoints.weights(self.checkpoint))
        return network.eval()

    @torch.inference_mode()
    def predictions(self, split: str = "train", device: str | torch.device | None = None) -> Predictions:
        """What the network says of each sample of "train" or "test".

        device: to compute on (None: a GPU where there is one). The set is baked again if it is not in the cache. Raises
        UserError where the data are no longer those of the training.
        """
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network, data = self.network.to(where), self._data(where)
        names = {"train" if name == "train" else "test": name for name in data.baked.splits}
        if split not in names:
            raise UserError(f"{self.folder} has no split '{split}': {did_you_mean(split, names)}")
        parts = []
        for batch in data.evaluation(names[split]):
            logits = logits_of(network(data.prepare_eval(batch.images, batch.index)))
            columns = batch.index, batch.label, batch.clean_label, logits.float().softmax(1)
            parts.append([column.cpu().numpy() for column in columns])
        network.cpu()
        index, *others = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(index)
        return Predictions(index[order], *(column[order] for column in others))

    def save_for_hub(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors as timm lays them out, and return the folder.

        `timm.create_model("local-dir:FOLDER", pretrained=True)` makes the network again (one of the paper's after
        `import fastgen`), with the input's size, its normalisation and the names of the classes.
        """
        from timm.models import save_for_hf

        with refusals(Path(folder), "name another folder"):
            save_for_hf(self._for_hub(), str(folder), **self._hub_arguments, safe_serialization=True)
        return Path(folder)

    def push_to_hub(self, name: str, **options: Any) -> Any:
        """Push the same to the Hub's `name` ("user/model") by timm.models.push_to_hf_hub, which takes the options
        (private, token, model_card, ...); a login there is needed. Returns what that does."""
        from timm.models import push_to_hf_hub

        card = {"description": self._described, "license": "unknown"}
        arguments = {**self._hub_arguments, "model_card": card, "safe_serialization": True}
        return push_to_hf_hub(self._for_hub(), name, **(arguments | options))

    # ------------------------------------------------------------ its parts

    @cached_property
    def _made(self) -> tuple[torch.nn.Module, dict[str, Any]]:
        """timm's network, freshly initialised, and the arguments that made it."""
        spec, manifest = self.recipe.model, self.manifest
        arguments = arguments_of(spec, self.labels.classes(manifest.num_classes), manifest.channels)
        arguments.pop("pretrained", None)  # what it began with
        return make_by_timm(spec.name, self._image_size, arguments)

    @cached_property
    def _image_size(self) -> int:
        """Side of the network's input in pixels."""
        return self.recipe.data.image_size or self.manifest.splits["train"].image.width or 0

    def _data(self, device: torch.device) -> Data:
        baked = set_of(self.recipe)
        check_same_data(self.folder, baked.manifest)
        engines = open_engines(self.recipe.data, baked, device, self.recipe.data.workers)
        return data_of(self.recipe, baked, engines, device)

    def _for_hub(self) -> torch.nn.Module:
        """The network, which says of its input what timm's own transforms need to know."""
        data, manifest = self.recipe.data, self.manifest
        stored, size, normalize = manifest.splits["train"].image.width, self._image_size, data.normalize
        of_channels = normalize.kind == "channel"
        network = self.network
        known: Any = network.pretrained_cfg  # of weights that were trained elsewhere
        configuration: Any = {
            **{name: known.get(name) for name in ("first_conv", "classifier")},
            "architecture": self.timm["model_name"].partition(".")[0],
            "input_size": (manifest.channels, size, size),
            "interpolation": "bilinear",
            "crop_pct": data.view.fraction or size / (stored or size),
            "crop_mode": "center" if data.view.square else "squash",
            "mean": tuple(normalize.mean) if of_channels else (0.0,) * manifest.channels,
            "std": tuple(normalize.std) if of_channels else (1.0,) * manifest.channels,
            "num_classes": self.timm["num_classes"],
            "description": self._described,
        }
        network.pretrained_cfg = configuration
        return network

    @property
    def _hub_arguments(self) -> dict[str, Any]:
        """What timm writes into config.json beside the network's own: how it was made, and its classes."""
        known = "model_name", "num_classes", "in_chans", "drop_rate"
        names = ["-1", "+1"] if self.labels.signs else self.manifest.class_names
        made = {key: value for key, value in self.timm.items() if key not in known}
        return {"model_args": made, "model_config": {"label_names": names}}

    @property
    def _described(self) -> str:
        text = f"Trained by fastgen: {self.command}."
        if self.recipe.data.normalize.kind == "whiten":
            text += " Its input is whitened: of each image, its mean is subtracted and it is divided by its deviation."
        return text

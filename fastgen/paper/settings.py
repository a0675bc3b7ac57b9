"""Settings of the theory's experiments, written key=value as a recipe's are."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fastgen.recipe.schema import known_keys
from fastgen.theory.kernels import KernelSpec
from pipelines.errors import UserError, did_you_mean
from pipelines.sources import SourceSpec


@dataclass
class DataSettings:
    """limit, limit_test: the first n training and test samples (None: all). root: as of a recipe."""

    limit: int | None = None
    limit_test: int | None = None
    root: str | None = None

    def source(self, name: str) -> SourceSpec:
        return SourceSpec(source=name, limit=self.limit, limit_test=self.limit_test, root=self.root)


@dataclass
class KernelSettings:
    """As in `KernelSpec`."""

    gamma: float | None = None  # None: each row's own, as of ridge and filters
    ridge: float | None = None
    filters: int | None = None  # of the random convolution
    precision: str | None = None  # None: float32, and float64 on a GPU
    panel: int = 3000
    solver: str = "auto"
    memory_gb: float | None = None

    def spec(self, gamma: float, ridge: float, on_gpu: bool) -> KernelSpec:
        usual: dict[str, Any] = {"gamma": gamma, "ridge": ridge, "precision": "float64" if on_gpu else "float32"}
        given = {key: value for key, value in vars(self).items() if value is not None and key != "filters"}
        return KernelSpec(**usual | given)


@dataclass
class SgdSettings:
    epochs: int = 3000  # passes over the points


@dataclass
class Settings:
    """seed: of random labels, directions, orders and filters."""

    seed: int = 0
    data: DataSettings = field(default_factory=DataSettings)
    kernel: KernelSettings = field(default_factory=KernelSettings)
    sgd: SgdSettings = field(default_factory=SgdSettings)

    @staticmethod
    def parse(overrides: list[str]) -> "Settings":
        """Raises UserError for an unknown key, with the nearest one, or a value of another type."""
        config, known = OmegaConf.structured(Settings), known_keys(Settings())
        for override in overrides:
            key, _, text = override.partition("=")
            if key not in known:
                raise UserError(f"unknown key '{key}': {did_you_mean(key, known)}")
            try:
                OmegaConf.update(config, key, None if text in ("null", "~") else text, merge=False)
            except OmegaConfBaseException as error:
                raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
        settings: Settings = OmegaConf.to_object(config)  # type: ignore[assignment]
        values = known_keys(settings)
        for key in ("data.limit", "data.limit_test", "kernel.filters", "sgd.epochs"):
            if values[key] is not None and values[key] < 1:
                raise UserError(f"{key}={values[key]} must be at least 1")
        settings.kernel.spec(1.0, 0.0, on_gpu=False)  # KernelSpec checks the others
        return settings

"""Recipes as files: YAML with inheritance, dotted overrides, and errors that name the remedy."""

import copy
import difflib
import functools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fastgen.recipe.schema import Recipe, known_keys, leaves
from fastgen.recipe.validation import validate
from pipelines.corruptions import LabelSpec
from pipelines.durable import read_regular
from pipelines.errors import UserError, did_you_mean

_KNOWN = known_keys()
# What other tools call it: the last part of a key -> ours.
_SYNONYMS = {
    "learning_rate": "optim.lr", "optimizer": "optim.name", "wd": "optim.weight_decay", "decay": "optim.weight_decay",
    "scheduler": "schedule.kind", "lr_scheduler": "schedule.kind", "warmup": "schedule.warmup_samples",
    "batch": "data.batch_size", "bs": "data.batch_size", "dataset": "data.source", "loader": "data.backend",
    "num_workers": "data.workers", "subset": "data.limit", "noise": "data.labels.p", "img_size": "data.image_size",
    "arch": "model.name", "architecture": "model.name", "network": "model.name", "drop_rate": "model.dropout",
    "mixup_alpha": "train.mixup", "cutmix_alpha": "train.cutmix", "smoothing": "train.label_smoothing",
    "randaugment": "data.augment.rand_ops",
    "num_epochs": "train.epochs", "max_epochs": "train.epochs", "steps": "train.max_steps", "amp": "train.precision",
    "mixed_precision": "train.precision", "grad_accum": "train.accumulate", "clip_grad": "optim.clip",
    "output_dir": "run.dir", "out_dir": "run.dir", "log_interval": "track.log_steps",
}  # fmt: skip
_ANSWERS = {"true": "always", "on": "always", "yes": "always", "false": "never", "off": "never", "no": "never"}
# Keys that may differ between a run and its continuation: how long, how observed, on which machine.
FREE = (
    "run.", "track.", "train.epochs", "train.max_steps", "train.threads", "train.startup_minutes",
    "train.timeout_minutes", "train.compile", "train.channels_last", "data.backend", "data.workers", "data.stage",
    "data.shards", "data.root", "bake.workers",
)  # fmt: skip
_SPELLED = {"data.labels.name": "data.labels.column"}  # keys that a resolved recipe says by another
_LONGEST_NAME = 64  # characters
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_MOST_BASES = 100  # of a recipe
_MOST_VALUES = 10_000  # in a recipe: more are aliases of aliases, without end


def recipes_folder() -> Path:
    """The shipped recipes: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent.parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "recipes"


def known_recipes() -> list[str]:
    return sorted(path.stem for path in recipes_folder().glob("*.yaml"))


def described_recipes() -> list[tuple[str, str]]:
    """Name and first sentence of each shipped recipe."""
    texts = ((name, (recipes_folder() / f"{name}.yaml").read_text()) for name in known_recipes())
    return [(name, text.partition("\n")[0].removeprefix("# ")) for name, text in texts]


def load(name: str, overrides: list[str] | None = None) -> Recipe:
    """The resolved and validated recipe. name: one of `known_recipes()`, or a path. overrides: "key=value".

    It spells each corruption in one way, that of the manifest and of the label column's name. Raises UserError: unknown
    recipe or key (with the nearest), wrong type, settings that contradict each other.
    """
    path = _find(name)
    config = _defaults()
    for number, (origin, values) in enumerate(_chain(path, ())):
        if number == _MOST_BASES:
            raise UserError(f"{path}: more than {_MOST_BASES} bases, of which each comes as often as it is named")
        called = _called(values, path.stem, origin)  # a run's recipe.yaml names its recipe; the file itself comes last
        for key, value in leaves(Recipe, values):
            _set(config, key, value, origin)
    return _resolved(config, called, overrides or [])


def defaults(overrides: list[str]) -> Recipe:
    """What the schema itself says, and overrides "key=value"; as `load`, for what needs no experiment."""
    return _resolved(_defaults(), "", overrides)


def _defaults() -> Any:
    """The schema as OmegaConf's structure, to be changed. A sweep wants hundreds, and it takes long to derive one."""
    return copy.deepcopy(_schema())


@functools.cache
def _schema() -> Any:
    return OmegaConf.structured(Recipe)


def _resolved(config: Any, called: str, overrides: list[str]) -> Recipe:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"'{override}' is no override; write key=value")
        _set(config, key, _read_yaml(text, f"{key}={text}"), "command line")
    recipe: Recipe = OmegaConf.to_object(config)  # type: ignore[assignment]
    recipe.recipe = called
    data, run = recipe.data, recipe.run
    run.dir, data.stage, data.shards = (
        path and os.path.expanduser(path) for path in (run.dir, data.stage, data.shards)
    )
    if data.subset.without is not None:
        data.subset.without = os.path.expanduser(data.subset.without)
    data.labels, data.pixels = data.labels.resolved(), data.pixels.resolved(data.image_size)
    recipe.track = recipe.track.resolved()
    recipe.train.evaluate = _ANSWERS.get(recipe.train.evaluate, recipe.train.evaluate)
    recipe.bake.columns = [labels.resolved() for labels in recipe.bake.columns]
    if recipe.run.name is None:
        keys = [override.partition("=")[0] for override in overrides or []]
        recipe.run.name = run_name(recipe, [_SPELLED.get(key, key) for key in keys])
    validate(recipe)
    return recipe


def run_name(recipe: Recipe, keys: Iterable[str] = ()) -> str:
    """What a run is, in short, and fit for a file's name: the recipe, and its values of `keys`, but for the FREE ones.

    Where they are too many for a short name, it ends with how many are left out, as "+3".
    """
    parts, values = [], recipe.flat()
    for key in dict.fromkeys(keys):
        last, value = key.rpartition(".")[2], values.get(key)
        if not key.startswith(FREE):
            text = f"{value:g}" if isinstance(value, float) else str(value).lower()
            text = text if last in ("name", "kind", "source") else f"{last}-{text}"
            parts.append("-" + re.sub(r"[^\w.-]+", "_", text).strip("._"))
    name, left = recipe.recipe, len(parts)
    for part in parts:
        if len(name + part) > _LONGEST_NAME:
            break
        name, left = name + part, left - 1
    return f"{name}+{left}" if left else name


def stored(path: Path) -> dict[str, Any]:
    """Dotted key -> value of a run's recipe.yaml. What an older version did not write has its default, and what only
    that one knew is left out. Raises UserError for a damaged file."""
    config, values = _defaults(), _read_file(path)
    config.recipe = _called(values, "", str(path))
    for key, value in leaves(Recipe, values):
        if key in _KNOWN or key.startswith("model.options.") or _is_group(key):
            _set(config, key, value, str(path))
    recipe: Recipe = OmegaConf.to_object(config)  # type: ignore[assignment]
    return recipe.flat()


def parse(arguments: list[str]) -> Recipe:
    """A recipe from a command line: recipe=NAME key=value ..."""
    names = [a.partition("=")[2] for a in arguments if a.startswith("recipe=")]
    others = [a for a in arguments if not a.startswith("recipe=")]
    if len(names) != 1:
        found = "no recipe" if not names else f"{len(names)} recipes"
        meant = next((word for word in others if word in known_recipes()), "NAME")
        raise UserError(f"{found} given; write recipe={meant}; `fastgen recipes` lists them")
    return load(names[0], others)


def _find(name: str) -> Path:
    path = Path(os.path.expanduser(name))  # Path's own raises for an unknown user
    is_path = "/" in name or path.suffix in (".yaml", ".yml")
    if is_path and path.is_file():
        return path
    stem = path.stem if is_path else name
    if "/" not in name and (shipped := recipes_folder() / f"{stem}.yaml").is_file():
        return shipped
    near = difflib.get_close_matches(stem, known_recipes(), n=3, cutoff=0.3)
    meant = f"did you mean {' or '.join(f'recipe={each}' for each in near)}? " if near else ""
    what = f"recipe file {name} does not exist" if is_path else f"unknown recipe '{name}'"
    raise UserError(f"{what}: {meant}`fastgen recipes` lists all")


def _chain(path: Path, below: tuple[Path, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The file's bases first, then itself. `base:` names one file or several, beside it or shipped.

    below: the files that have this one as a base.
    """
    if path.resolve() in below:
        raise UserError(f"{path}: is its own base, by way of {' -> '.join(p.name for p in below)}")
    values = _read_file(path)
    bases = values.pop("base", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise UserError(f"{path}: base is the name of a recipe or a list of such names")
        places = [path.parent / f"{base}.yaml", recipes_folder() / f"{base}.yaml", path.parent / base]
        try:
            found = next((place for place in places if place.is_file()), None) or _find(base)
        except UserError as error:
            raise UserError(f"{path}: base: {error}") from None
        yield from _chain(found, (*below, path.resolve()))
    yield str(path), values


def _called(values: dict[str, Any], usual: str, origin: str) -> str:
    """Takes the recipe's name out of what a file holds."""
    name = values.pop("recipe", usual)
    if not isinstance(name, str) or "/" in name or "${" in name or name == "???" or not name.isprintable():
        raise UserError(f"{origin}: recipe is the name of a recipe, a text as in a file's name")
    return name


def _is_group(key: str) -> bool:
    return any(known.startswith(f"{key}.") for known in _KNOWN)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = _read_yaml(read_regular(path).decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {_first_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values")
    return values


class _BaseLoader(yaml.BaseLoader):  # type: ignore[misc]
    """PyYAML's own takes the last of two equal keys, and drops the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in known:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark)
            known |= {key.value} if isinstance(key.value, str) else set()
        return super().construct_mapping(node, deep)


def _read_yaml(text: str, origin: str) -> Any:
    """YAML whose scalars stay text, as the schema knows their types: YAML 1.1 would read `kind: true` and `wandb: off`
    as booleans, and 1e-3 as a word."""
    try:
        read = yaml.load(text, _BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{origin}: no valid YAML: {_first_line(error)}") from None
    for number, _ in enumerate(_texts(read)):
        if number == _MOST_VALUES:
            raise UserError(f"{origin}: more than {_MOST_VALUES:,} values")
    return read


def _texts(value: Any) -> Iterator[str]:
    """All keys and scalars within a value of BaseLoader's."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left += [*item.values(), *item]
        elif isinstance(item, list):
            left += item
        yield item if isinstance(item, str) else ""


def _set(config: Any, key: str, value: Any, origin: str) -> None:
    for text in _texts(value):
        if "${" in text or text == "???":
            raise UserError(f"{origin}: {key}: '{text}' is OmegaConf's, and not read here; write the value itself")
        if "\0" in text:
            raise UserError(f"{origin}: {key}: '{text}' holds a null character; leave it out")
    if key not in _KNOWN and not key.startswith("model.options."):
        if _is_group(key):
            raise UserError(f"{origin}: {key} is a group of keys, set one of them: {key}.*=...")
        raise UserError(f"{origin}: unknown key '{key}'; {_near(key)}`fastgen keys` lists all, with their meaning")
    if key.startswith("model.options"):  # timm's keys: the schema does not know their types
        value = _plain(value)
    elif key == "bake.columns":
        value = [_label_spec(item, origin) for item in (value if isinstance(value, list) else [value])]
    else:
        value = _null(value)
    try:
        OmegaConf.update(config, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise UserError(f"{origin}: {key}={value}: {_first_line(error)}") from None


def _near(key: str) -> str:
    """What may be meant by an unknown key: of another group, by another tool's name, or nearly spelt so."""
    last = key.rpartition(".")[2]
    meant = [known for known in _KNOWN if known.rpartition(".")[2] == last]
    meant = meant or ([_SYNONYMS[last]] if last in _SYNONYMS else [])
    if meant:
        return f"did you mean {' or '.join(repr(each) for each in meant)}? "
    return did_you_mean(key, _KNOWN).partition("known:")[0]


def _null(value: Any) -> Any:
    return None if isinstance(value, str) and value in ("null", "~") else value


def _plain(value: Any) -> Any:
    """Text as the number, boolean or null that YAML takes it for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if _EXPONENT.fullmatch(value):  # which YAML 1.1 takes for a word
        return float(value)
    try:
        read = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none, too long a number
        return value
    return read if read is None or isinstance(read, bool | int | float) else value


def _label_spec(values: Any, origin: str) -> Any:
    """One of bake.columns, with the schema's types."""
    if not isinstance(values, dict):
        raise UserError(f"{origin}: bake.columns is a list of mappings such as {{kind: partial, p: 0.1, seed: 0}}")
    known = {f.name for f in fields(LabelSpec)}
    for key in values:
        if key not in known:
            raise UserError(f"{origin}: unknown key '{key}' in bake.columns; {did_you_mean(key, known)}")
    try:
        return OmegaConf.merge(OmegaConf.structured(LabelSpec), {k: _null(v) for k, v in values.items()})
    except OmegaConfBaseException as error:
        raise UserError(f"{origin}: bake.columns: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n    full_key")[0].split())

"""What must be equal after an attack and without one: all files of a folder, but for times and what comes of them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

# Keys that say when, how fast, in how many pieces and by which commit a run was done.
_TIMES = {
    "wall_seconds", "images_per_second", "data_stall_fraction", "time_fractions", "advice", "seconds", "sha256",
    "run_dir", "made_by", "manifest_sha256",
}  # fmt: skip
_NO_CONTENT = ("made_by.json", ".checked.json")  # what was done when: that they are there is compared
_NOT_COMPARED = re.compile(r"(^|/)(\.[^/]*lock|[^/]*\.lock|logs/.*|wandb/.*|\.nfs.*)$")


def tree(root: Path) -> dict[str, str]:
    """Relative path -> digest of the content, of all files below `root`."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not _NOT_COMPARED.search(name):
            found[name] = hashlib.sha256(_content(path, root)).hexdigest()
    return found


def _content(path: Path, root: Path) -> bytes:
    if path.name in _NO_CONTENT:
        return b""
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl", ".yaml", ".csv", ".html", ".md"):
        return data
    text = data.decode(errors="replace").replace(str(root), "ROOT")
    if path.name == "metrics.jsonl":
        return "\n".join(json.dumps(_timeless(json.loads(line))) for line in text.splitlines()).encode()
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(text)), sort_keys=True).encode()
    if path.name == "recipe.yaml":
        return re.sub(r"  resume: \w+\n", "", text).encode()
    if path.name == "results.csv":  # its column of seconds
        return re.sub(r"[\d.]+,(?=ROOT)", "", text).encode()
    return re.sub(r"\d+\.\d+ s\b|[\d,]+ images/s", "", text).encode()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in _TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def difference(one: dict[str, str], other: dict[str, str]) -> str:
    """The first differences in words; "" where there is none."""
    parts = {
        "missing": sorted(one.keys() - other.keys()),
        "left over": sorted(other.keys() - one.keys()),
        "different": sorted(name for name in one.keys() & other.keys() if one[name] != other[name]),
    }
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts.items() if names)

"""metrics.jsonl, which every run writes."""

import json
from pathlib import Path
from typing import Any

from fastgen.runs.summary import metric
from pipelines.durable import read_regular, sync, write_durably
from pipelines.errors import UserError

METRICS = "metrics.jsonl"
DIVERGED = "diverged"  # the key of a last line, where the loss stopped being finite


class MetricsFile:
    """metrics.jsonl: one object a line, units in the keys. Only the main process has one.

    step: where the run begins or goes on. evaluated: whether it was evaluated there. Lines of later steps and
    evaluations are deleted, as the run is about to repeat them.
    """

    def __init__(self, folder: Path, step: int, evaluated: bool) -> None:
        path = folder / METRICS
        if path.exists():
            last = step if evaluated else step - 1
            kept = [line for line in read_metrics(folder) if line["step"] <= (last if _evaluates(line) else step)]
            write_durably(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (closed by close)

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        sync(self._file)

    def close(self) -> None:
        self._file.close()


def _evaluates(line: dict[str, Any]) -> bool:
    return metric("train_top1") in line


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run directory's metrics.jsonl, none where it has no such file.

    A last line that a killed process left incomplete is skipped. Raises UserError for any other that is damaged.
    """
    path = folder / METRICS
    try:
        texts = read_regular(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    return [_parsed(text, f"line {number} of {path}") for number, text in enumerate(texts[:-1], 1)]


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        right = all(value is None or _is_number(value) for value in line.values())
        if right and isinstance(line["step"], int) and line["step"] >= 0 and line["epoch"] is not None:
            return dict(line)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise UserError(f"{where} is damaged: restore it or delete it; a resumed run goes on without it")


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 63)

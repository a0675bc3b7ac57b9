"""metrics.jsonl, which every run writes."""

import json
from pathlib import Path
from typing import Any

from pipelines.durable import write_atomically


class MetricsFile:
    """metrics.jsonl: one object a line, units in the keys. Only the main process has one."""

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        self.path = folder / "metrics.jsonl"
        if resumed_step is not None and self.path.exists():
            # Lines after the checkpoint tell of steps that are about to be repeated.
            kept = [line for line in read_metrics(self.path) if line["step"] <= resumed_step]
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 (closed by close)

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; the last may be cut where a process was killed, and is left out then."""
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]

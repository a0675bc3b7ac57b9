"""The paper's theory as experiments of `fastgen reproduce`: cases that are computed once, and shown as a table."""

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fastgen.paper.experiments import STUDIES
from fastgen.paper.settings import Settings
from fastgen.report.page import Page
from fastgen.terminal import console
from pipelines.durable import write_atomically
from pipelines.errors import UserError

Told = Callable[[str, float], None]  # what is being done, and the fraction of it that is
Measured = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """labels: column -> text. paper: key of what is measured -> the paper's number."""

    labels: dict[str, str]
    paper: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What is computed together. run: gives what was measured for each of `rows`, as JSON can hold it; None for one
    that these settings cannot have.

    described: all that decides the outcome, beside the settings.
    """

    name: str
    rows: list[Row]
    described: dict[str, Any]
    run: Callable[[Settings, Told], Sequence[Measured | None]]


@dataclass(frozen=True)
class Study:
    """title: what the paper calls it. cases: those that --models names. columns: key of what is measured -> heading.

    keys: of the settings that it reads. figures: (title, figure) for each plot, from all rows with what was measured.
    """

    title: str
    cases: Callable[[list[str] | None], list[Case]]
    columns: dict[str, str]
    keys: tuple[str, ...]
    notes: tuple[str, ...] = ()
    figures: Callable[[list[tuple[Row, Measured]]], list[tuple[str, Figure]]] = lambda rows: []


def find_study(name: str) -> Study:
    """Raises UserError for an unknown name."""
    study: Study = importlib.import_module(STUDIES[name]).STUDY
    return study


def run_study(
    name: str, models: list[str] | None, overrides: list[str], root: Path, command: str, only_show: bool = False
) -> Page:
    """Compute what is missing of a study and return its page. Finished cases lie in `root`/theory.

    only_show: leave out what is missing. Raises UserError for mistakes, and where a case meets one; the cases before it
    stay finished.
    """
    study, settings = find_study(name), Settings.parse(overrides)
    for override in overrides:
        if not override.startswith(study.keys):
            raise UserError(f"{name} does not use {override}; its settings are {'*, '.join(study.keys)}*")
    shown: list[tuple[Row, Measured]] = []
    for case in study.cases(models):
        text = json.dumps({"case": case.described, "settings": asdict(settings)}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        path = root / "theory" / f"{name}-{case.name}-{digest}.json"
        if not path.is_file() and only_show:
            continue
        if not path.is_file():
            started = time.perf_counter()
            measured = _with_progress(case, settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            document = {**json.loads(text), "seconds": time.perf_counter() - started, "measured": measured}
            write_atomically(path, json.dumps(document, indent=1) + "\n")
        found = zip(case.rows, json.loads(path.read_text())["measured"], strict=True)
        shown += [(row, measured) for row, measured in found if measured is not None]
    if not shown:
        raise UserError(f"nothing of {name} with these settings is in {root}; leave --show out to compute it")
    page = Page(study.title)
    page.table(*comparison(study, shown))
    for note in study.notes:
        page.text(note)
    for key, what in (("limit", "training"), ("limit_test", "test")):
        if (limit := getattr(settings.data, key)) is not None:
            page.text(f"Not the whole {what} set: data.{key}={limit}.")
    for title, figure in study.figures(shown):
        page.figure(f"{name}-{len(page.figures)}" if page.figures else name, figure, title)
    page.code(command)
    return page


def comparison(study: Study, shown: list[tuple[Row, Measured]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what each row is, and the paper's numbers beside ours."""
    printed = {key for row, _ in shown for key in row.paper}
    header = list(shown[0][0].labels)
    for key, heading in study.columns.items():
        header += [f"{heading}, paper", f"{heading}, ours"] if key in printed else [heading]
    rows = []
    for row, measured in shown:
        cells = list(row.labels.values())
        for key in study.columns:
            cells += ([row.paper.get(key, "")] if key in printed else []) + [_text(measured[key])]
        rows.append(cells)
    return header, rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "0" if value == 0 else f"{value:,.2f}" if 0.01 <= abs(value) < 1e6 else f"{value:.1e}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _with_progress(case: Case, settings: Settings) -> Sequence[Measured | None]:
    """Run it, with a bar on a terminal and a line for each thing that it does elsewhere."""
    screen = console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(case.name, total=1.0)
        said = set()

        def told(doing: str, done: float) -> None:
            bar.update(task, description=f"{case.name}: {doing}", completed=done)
            if not screen.is_terminal and doing not in said:
                said.add(doing)
                print(f"{case.name}: {doing}", flush=True)

        return case.run(settings, told)

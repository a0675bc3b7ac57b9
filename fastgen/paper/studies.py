"""The paper's theory as experiments of `fastgen reproduce`: cases are computed once, and make a page with a table."""

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
from fastgen.runs.machine import machine
from fastgen.terminal import console
from pipelines.durable import write_atomically
from pipelines.errors import UserError

Tell = Callable[[str, float], None]  # called with what is being done, and the done part of it in [0, 1]
Numbers = dict[str, Any]  # key of a study's column -> what was computed; further keys are for its figures


@dataclass(frozen=True)
class Row:
    """labels: column -> text. paper: key of `Numbers` -> the paper's number."""

    labels: dict[str, str]
    paper: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """Rows that are computed together.

    described: all that decides the outcome, beside the settings. run: returns the numbers of each row, as JSON can hold
    them; None for a row that these settings cannot have.
    """

    name: str
    rows: list[Row]
    described: dict[str, Any]
    run: Callable[[Settings, Tell], Sequence[Numbers | None]]


@dataclass(frozen=True)
class Study:
    """title: what the paper calls it. cases: those that --models names. columns: key of `Numbers` -> heading.

    keys: beginnings of the settings that it reads. figures: (title, figure) for each plot, from the computed rows.
    """

    title: str
    cases: Callable[[list[str] | None], list[Case]]
    columns: dict[str, str]
    keys: tuple[str, ...]
    notes: tuple[str, ...] = ()
    figures: Callable[[list[tuple[Row, Numbers]]], list[tuple[str, Figure]]] = lambda rows: []


def find_study(name: str) -> Study:
    """Raises UserError for an unknown name."""
    study: Study = importlib.import_module(STUDIES[name]).STUDY
    return study


def run_study(
    name: str, models: list[str] | None, overrides: list[str], root: Path, command: str, only_show: bool = False
) -> Page:
    """Compute what is missing of a study and return its page. Finished cases lie in `root`/theory.

    only_show: leave out what is missing. Raises UserError for mistakes; cases that are finished by then stay.
    """
    study, settings = find_study(name), Settings.parse(overrides)
    for override in overrides:
        if not override.startswith(study.keys):
            raise UserError(f"{name} does not use {override}; its settings are {'*, '.join(study.keys)}*")
    rows: list[tuple[Row, Numbers]] = []
    machines: set[str] = set()
    for case in study.cases(models):
        path = case_file(name, case, settings, root)
        if not path.is_file():
            if only_show:
                continue
            started = time.perf_counter()
            computed = _with_progress(case, settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            document = {
                **json.loads(_all_of(case, settings)),
                "seconds": time.perf_counter() - started,
                "machine": machine(),
                "measured": computed,
            }
            write_atomically(path, json.dumps(document, indent=1) + "\n")
        document = json.loads(path.read_text())
        machines.add(document.get("machine", "a machine that was not noted"))
        found = zip(case.rows, document["measured"], strict=True)
        rows += [(row, numbers) for row, numbers in found if numbers is not None]
    if not rows:
        raise UserError(f"nothing of {name} with these settings is in {root}; leave --show out to compute it")
    page = Page(study.title)
    page.table(*_table(study, rows))
    for note in study.notes:
        page.text(note)
    for key, what in (("limit", "training"), ("limit_test", "test")):
        if (limit := getattr(settings.data, key)) is not None:
            page.text(f"Not the whole {what} set: data.{key}={limit}.")
    for title, figure in study.figures(rows):
        page.figure(f"{name}-{len(page.figures)}" if page.figures else name, figure, title)
    page.code(command)
    page.text(f"Computed on: {'; '.join(sorted(machines))}.")
    return page


def case_file(name: str, case: Case, settings: Settings, root: Path) -> Path:
    """Where the outcome of a study's case with these settings lies."""
    digest = hashlib.sha256(_all_of(case, settings).encode()).hexdigest()[:10]
    return root / "theory" / f"{name}-{case.name}-{digest}.json"


def _all_of(case: Case, settings: Settings) -> str:
    """All that decides the outcome, as JSON."""
    return json.dumps({"case": case.described, "settings": asdict(settings)}, sort_keys=True)


def _table(study: Study, rows: list[tuple[Row, Numbers]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each row's labels, and the paper's numbers beside ours."""
    printed = {key for row, _ in rows for key in row.paper}
    header = list(rows[0][0].labels)
    for key, heading in study.columns.items():
        header += [f"{heading}, paper", f"{heading}, ours"] if key in printed else [heading]
    table = []
    for row, numbers in rows:
        cells = list(row.labels.values())
        for key in study.columns:
            cells += ([row.paper.get(key, "")] if key in printed else []) + [_text(numbers[key])]
        table.append(cells)
    return header, table


def _text(value: Any) -> str:
    if isinstance(value, float) and 0.01 <= abs(value) < 1:
        return f"{value:.3f}".removesuffix("0")
    if isinstance(value, float):
        return "0" if value == 0 else f"{value:,.2f}" if 0.01 <= abs(value) < 1e6 else f"{value:.1e}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _with_progress(case: Case, settings: Settings) -> Sequence[Numbers | None]:
    """Run the case, with a bar on a terminal, elsewhere with a line for each thing that it does."""
    screen = console()
    share = TextColumn("{task.percentage:.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), share, TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(case.name, total=1.0)
        said = set()

        def tell(doing: str, done: float) -> None:
            bar.update(task, description=f"{case.name}: {doing}", completed=done)
            if not screen.is_terminal and doing not in said:
                said.add(doing)
                print(f"{case.name}: {doing}", flush=True)

        return case.run(settings, tell)

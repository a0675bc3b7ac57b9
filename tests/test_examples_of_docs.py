"""docs/architecture.md is run as it is written, shows the floors as they are, and documents name files that exist."""

import re

import copies
import pytest
from test_architecture import FLOORS, GROUND, ROOT

ARCHITECTURE = ROOT / "docs" / "architecture.md"
# A file below the packages that a document names; `{a,b}`, `*` and what ends in `...` are no single files.
_FILE = re.compile(r"(?:fastgen|pipelines|tests|benchmarks|recipes|scripts|docs)/[\w/.-]*[\w/]")


def blocks() -> list[tuple[str, str, str]]:
    """(heading, what stands behind the fence, text) of each fenced block."""
    found, heading, inside, info, text = [], "", False, "", ""
    for line in ARCHITECTURE.read_text().splitlines():
        if line.startswith("```"):
            if inside:
                found.append((heading, info, text))
            inside, info, text = not inside, line.removeprefix("```"), ""
        elif inside:
            text += f"{line}\n"
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return found


BLOCKS = blocks()


@pytest.mark.slow
@pytest.mark.parametrize("heading", dict.fromkeys(heading for heading, info, _ in BLOCKS if info == "python"))
def test_an_example_runs(heading, tmp_path):
    scripts = []
    for at, info, text in BLOCKS:
        if at == heading:
            name = info.partition(" ")[2] or f"script_{len(scripts)}.py"
            (tmp_path / name).write_text(text)
            scripts += [name] if info == "python" else []
    for script in scripts:
        done = copies.run(tmp_path / script, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", FLOORS)
def test_the_floors_are_shown_as_they_are(package):
    (picture,) = (text for _, info, text in BLOCKS if info == f"text {package}")
    *rooms, ground = picture.splitlines()
    assert {line.split()[0]: line.partition("->")[2].strip() for line in rooms} == FLOORS[package]
    assert [line.split()[0] for line in rooms] == list(FLOORS[package])
    assert re.findall(r"\w+", ground.partition(": for")[0])[1:] == GROUND[package].split()


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document):
    named = set(_FILE.findall(document.read_text()))
    assert [
        name for name in sorted(named) if not (ROOT / name).exists() and not (document.parent / name).exists()
    ] == []


def anchors(text: str) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not link.startswith(("http", "mailto:")):
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), f"{document.name} links to {link}"
            assert not anchor or anchor in anchors(target.read_text()), f"{document.name} links to {link}"

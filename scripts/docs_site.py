"""MkDocs's hook: README.md is the site's first page, and links that lead out of docs/ lead to copies in the site."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_ROOT = Path(__file__).parent.parent
_BESIDE = ("benchmarks/results/*.json", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")


def on_files(files: Any, config: Any) -> Any:
    """Add what lies beside docs/ and is linked."""
    for pattern in _BESIDE:
        for path in sorted(_ROOT.glob(pattern)):
            name = path.relative_to(_ROOT).as_posix()
            text = path.read_text()
            files.append(File.generated(config, name, content=_inside(text) if path.suffix == ".md" else text))
    files.append(File.generated(config, "index.md", content=_inside((_ROOT / "README.md").read_text())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../benchmarks/", "](benchmarks/")


def _inside(text: str) -> str:
    """A document of the root, as one of docs/."""
    return text.replace("](docs/", "](").replace("](README.md", "](index.md")

"""One self-contained HTML page, to be read without a network, with its tables as Markdown and figures as files."""

import base64
import html
import io
import re
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from pipelines.durable import write_atomically

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.7rem; text-align: left; white-space: nowrap; }
pre { background: var(--soft); padding: 0.7rem 1rem; overflow-x: auto; border-radius: 4px; font-size: 0.85rem; }
figure { margin: 1rem 0; }
figure svg, figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption, .note { color: #888; font-size: 0.9rem; }
"""


class Page:
    """Blocks in the order in which they are added. Every text is escaped. tables, texts, figures: those so far."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._html = [f"<h1>{html.escape(title)}</h1>"]
        self._markdown = [f"# {title}"]
        self.figures: dict[str, Figure] = {}
        self.tables: list[tuple[list[str], list[list[str]]]] = []
        self.texts: list[str] = []

    def heading(self, text: str) -> None:
        self._html.append(f"<h2>{html.escape(text)}</h2>")
        self._markdown.append(f"## {text}")

    def text(self, text: str) -> None:
        self.texts.append(text)
        self._html.append(f"<p>{html.escape(text)}</p>")
        self._markdown.append(text)

    def code(self, text: str, folded: str | None = None) -> None:
        """Preformatted text. folded: a heading that opens it; the text is then in the HTML alone."""
        block = f"<pre>{html.escape(text)}</pre>"
        if folded is None:
            self._markdown.append("\n".join("    " + line for line in text.splitlines()))
        else:
            block = f"<details><summary>{html.escape(folded)}</summary>{block}</details>"
        self._html.append(block)

    def table(self, header: list[str], rows: list[list[str]]) -> None:
        """rows: each as long as the header."""
        assert all(len(row) == len(header) for row in rows)
        self.tables.append((header, rows))
        cells = [[f"<th>{html.escape(cell)}</th>" for cell in header]]
        cells += [[f"<td>{html.escape(cell)}</td>" for cell in row] for row in rows]
        lines = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        self._html.append(f'<div class="wide"><table>{lines}</table></div>')
        self._markdown.append(markdown_table(header, rows))

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """name: of the figure's files beside the page; unique on it."""
        assert name not in self.figures, f"two figures are named {name}"
        self.figures[name] = figure
        drawing = _svg(figure)
        drawing = drawing[drawing.index("<svg") :]
        # The drawings on a page share its ids, so each figure's ids begin with its name.
        drawing = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
        caption = html.escape(caption)
        self._html.append(f'<figure id="figure-{name}">{drawing}<figcaption>{caption}</figcaption></figure>')
        self._markdown.append(f"![{caption}]({{files}}/{name}.svg)")

    def image(self, image: Image.Image, caption: str) -> None:
        out = io.BytesIO()
        image.save(out, "PNG")
        data = base64.b64encode(out.getvalue()).decode()
        caption = html.escape(caption)
        picture = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
        self._html.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")

    def write(self, path: Path) -> None:
        """PATH.html, PATH.md beside it, and each figure in PATH_files as PNG and SVG."""
        files = path.with_name(f"{path.stem}_files")
        files.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            write_atomically(files / f"{name}.svg", _svg(figure))
            figure.savefig(files / f".{name}.png", dpi=150, format="png")
            (files / f".{name}.png").replace(files / f"{name}.png")
        if not self.figures:
            files.rmdir()
        body = "\n".join(self._html)
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{_STYLE}</style>'
        view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        write_atomically(
            path, f'<!doctype html>\n<html lang="en"><head>{view}{head}</head><body>{body}</body></html>\n'
        )
        write_atomically(path.with_suffix(".md"), "\n\n".join(self._markdown).replace("{files}", files.name) + "\n")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    plain = [[cell.replace("|", "\\|") for cell in row] for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in plain)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()

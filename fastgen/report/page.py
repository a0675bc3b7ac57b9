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
:root { color-scheme: light dark; --back: #fff; --text: #1a1a1a; --note: #666; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--back); color: var(--text); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
a { color: inherit; text-decoration-color: var(--note); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; overflow-wrap: normal; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.45rem; text-align: left; vertical-align: bottom; }
td { white-space: nowrap; } .number { text-align: right; }
pre { background: var(--soft); padding: 0.7rem 1rem; overflow-x: auto; border-radius: 4px; font-size: 0.85rem; }
figure { margin: 1rem 0; }
figure svg, figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
@media (max-width: 40rem) { .broad svg { max-width: none; width: 40rem; } td:first-child { white-space: normal; } }
figcaption, .note { color: var(--note); font-size: 0.9rem; }
@media (prefers-color-scheme: dark) {
  :root { --back: #121212; --text: #e6e6e6; --note: #999; }
  figure svg { filter: invert(0.93) hue-rotate(180deg); }
}
"""
_MOST_ROWS = 500  # of a table on the page; its Markdown has all
_BROAD = 7  # inches: a wider figure is not made small on a phone, but scrolls
_NUMBER = re.compile(r"-|[<>≥]? ?[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ±.*)?( %)?|never")


class Page:
    """Blocks in the order in which they are added. Every text is escaped. tables, texts, figures: those so far."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._html = [f"<h1>{html.escape(title)}</h1>"]
        self._markdown = [f"# {title}"]
        self.figures: dict[str, Figure] = {}
        self.tables: list[tuple[list[str], list[list[str]]]] = []
        self.texts: list[str] = []

    def heading(self, text: str, anchor: str = "", link: str = "") -> None:
        """anchor: where a table's links to it lead. link: the address that the heading itself leads to."""
        at = f' id="{html.escape(anchor)}"' if anchor else ""
        self._html.append(f"<h2{at}>{_linked(html.escape(text), link)}</h2>")
        self._markdown.append(f"## [{text}]({link})" if link else f"## {text}")

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

    def table(self, header: list[str], rows: list[list[str]], links: list[str] | None = None) -> None:
        """rows: each as long as the header. links: the address that each row's first cell leads to, or ""."""
        assert all(len(row) == len(header) for row in rows)
        self.tables.append((header, rows))
        numeric = [all(_NUMBER.fullmatch(row[i]) for row in rows) for i in range(len(header))]
        marks = [' class="number"' if right else "" for right in numeric]
        # A heading may be broken within a key.
        headings = [html.escape(cell).replace(".", ".<wbr>").replace("_", "_<wbr>") for cell in header]
        lines = [_row("th", headings, marks)]
        for number, row in enumerate(rows[:_MOST_ROWS]):
            cells = [html.escape(cell) for cell in row]
            cells[0] = _linked(cells[0], links[number] if links else "")
            lines.append(_row("td", cells, marks))
        self._html.append(f'<div class="wide"><table>{"".join(lines)}</table></div>')
        if len(rows) > _MOST_ROWS:
            note = f"The first {_MOST_ROWS:,} of {len(rows):,} rows; all are in the Markdown file beside this page."
            self._html.append(f'<p class="note">{note}</p>')
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
        broad = ' class="wide broad"' if figure.get_figwidth() > _BROAD else ' class="wide"'
        self._html.append(
            f'<figure id="figure-{name}"><div{broad}>{drawing}</div><figcaption>{caption}</figcaption></figure>'
        )
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


def _row(kind: str, cells: list[str], marks: list[str]) -> str:
    inside = "".join(f"<{kind}{mark}>{cell}</{kind}>" for cell, mark in zip(cells, marks, strict=True))
    return f"<tr>{inside}</tr>\n"


def _linked(text: str, link: str) -> str:
    """text: escaped."""
    return f'<a href="{html.escape(link)}">{text}</a>' if link else text


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()

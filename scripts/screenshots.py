"""Pictures of a terminal, a sheet, a report and the documentation, to look at: python scripts/screenshots.py FOLDER

Each as a phone's and as a desktop's width show it, light and dark, by Chromium without a window. Trains the quickstart
for a few epochs, builds the site, and leaves all of it in FOLDER.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (390, 1280)  # pixels
PAGES = ("index.html", "first_hour/index.html", "api/index.html", "keys/index.html")
COMMANDS = (
    "train recipe=quickstart train.epochs=10 run.dir=run",
    "inspect recipe=quickstart --images sheet.png",
    "keys data.labels",
    "train recipe=quickstrat",
    "report run --output report.html",
)


def terminal(folder: Path) -> None:
    """Run the commands, and draw what they say as SVG."""
    screen = Console(record=True, width=100, file=(folder / "terminal.txt").open("w"))
    for command in COMMANDS:
        screen.print(Text(f"$ fastgen {command}", style="bold"))
        arguments = [sys.executable, "-m", "fastgen", *command.split()]
        done = subprocess.run(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        screen.print(Text(done.stdout.rstrip()))
    screen.save_svg(str(folder / "terminal.svg"), title="fastgen")


def photograph(page: Path, to: Path, width: int, dark: bool) -> None:
    """A PNG of the first 2,000 pixels of a page. Chromium's window has no width below 500: a frame has."""
    frame = to.with_suffix(".html")
    style = f"border:0;width:{width}px;height:2000px"
    frame.write_text(f'<body style="margin:0"><iframe src="{page.resolve().as_uri()}" style="{style}">')
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access"]
    look = ["--blink-settings=preferredColorScheme=0"] if dark else []
    size = [f"--window-size={max(width, 500)},2000", "--virtual-time-budget=3000", f"--screenshot={to.resolve()}"]
    subprocess.run([*browser, *look, *size, frame.resolve().as_uri()], check=True, stderr=subprocess.DEVNULL)
    frame.unlink()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    terminal(folder)
    site = folder / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(site.resolve())]
    subprocess.run(build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    shown = {"terminal": folder / "terminal.svg", "sheet": folder / "sheet.png", "report": folder / "report.html"}
    shown |= {page.partition("/")[0].removesuffix(".html"): site / page for page in PAGES}
    for name, page in shown.items():
        for width in WIDTHS:
            for dark in (False, True):
                photograph(page, folder / f"{name}-{width}{'-dark' if dark else ''}.png", width, dark)
    print(f"look at {folder}/*.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)

"""Completion as a shell asks for it: keys pressed in a real bash and a real zsh, on a terminal."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastgen.recipe.completion import completions
from fastgen.recipe.load import known_recipes, load
from fastgen.recipe.schema import known_keys
from pipelines.errors import UserError

# Ctrl-G shows the line as it stands, then a mark. The prompt is empty and nothing is read from the user's files.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        """bind 'set enable-bracketed-paste off'; bind 'set completion-query-items 9999'; bind 'set bell-style none'
bind 'set page-completions off'; show() { printf '\\n<%s>\\n' "$READLINE_LINE"; }; bind -x '"\\C-g": show'
""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        """autoload -Uz compinit; compinit -u -D; unsetopt zle_bracketed_paste 2>/dev/null; LISTMAX=9999
show() { print -r -- $'\\n'"<$BUFFER>" }; zle -N show; bindkey '^G' show
""",
    ),
}


class Terminal:
    """A shell that has loaded what `fastgen --show-completion` prints for it."""

    def __init__(self, shell: str, folder: Path) -> None:
        command, setup = SHELLS[shell]
        script = folder / f"completion.{shell}"
        program = [sys.executable, "-m", "fastgen.cli"]
        environment = os.environ | {"_FASTGEN_COMPLETE": f"source_{shell}"}
        script.write_text(subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout)
        (folder / "fastgen").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fastgen.cli "$@"\n')
        (folder / "fastgen").chmod(0o755)
        self._pid, self._terminal = pty.fork()
        if not self._pid:
            path = f"{folder}:{os.environ['PATH']}"
            os.execvpe(command[0], command, os.environ | {"PATH": path, "PS1": "", "TERM": "dumb", "HOME": str(folder)})
        self.said = ""
        self.press(f"{setup}source {script}; echo re''ady\n")
        self.wait("ready")

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait(self, text: str) -> str:
        """What was said up to `text`."""
        ends = time.monotonic() + 60
        while text not in self.said:
            assert select.select([self._terminal], [], [], max(0, ends - time.monotonic()))[0], self.said
            self.said += os.read(self._terminal, 65536).decode(errors="replace").replace("\r", "")
        before, _, self.said = self.said.partition(text)
        return before

    def line_after(self, typed: str) -> str:
        """The command line after these keys."""
        self.press(typed + "\a")
        self.wait("\n<")
        line = self.wait(">\n")
        self.press("\x15")  # Ctrl-U empties it
        return line

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


@pytest.fixture(scope="module", params=SHELLS)
def terminal(request, tmp_path_factory):
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    terminal = Terminal(request.param, tmp_path_factory.mktemp("shell"))
    yield terminal
    terminal.close()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("fastgen repr\t", "fastgen reproduce "),
        ("fastgen sweep --wan\t", "fastgen sweep --wandb-file "),
        ("fastgen bench p\t", "fastgen bench peers "),
        ("fastgen reproduce theo\t", "fastgen reproduce theorem1 "),
        ("fastgen reproduce table1 train.max\t", "fastgen reproduce table1 train.max_steps="),
        ("fastgen export x --to w\t", "fastgen export x --to webdataset "),
        ("fastgen train recipe=imagenet_s\t", "fastgen train recipe=imagenet_sample_random "),
        ("fastgen train recipe=quickstart data.pix\t", "fastgen train recipe=quickstart data.pixels."),
        ("fastgen train data.labels.kind=par\t", "fastgen train data.labels.kind=partial "),
        ("fastgen train --print rec\tcif\t", "fastgen train --print recipe=cifar10"),
        ("fastgen train data.backend=\tr\t", "fastgen train data.backend=resident "),
        ("fastgen sweep optim.name=sgd,a\t", "fastgen sweep optim.name=sgd,adamw "),
    ],
)
def test_in_a_shell(terminal, typed, line):
    assert terminal.line_after(typed) == line


def test_other_words_are_files(terminal, tmp_path):
    (tmp_path / "a_recipe.yaml").touch()
    assert terminal.line_after(f"fastgen verify {tmp_path}/a_re\t") == f"fastgen verify {tmp_path}/a_recipe.yaml "


def test_every_completion_is_a_setting():
    assert completions("recipe=") == [f"recipe={name}" for name in known_recipes()]
    assert completions("data.") == [f"{key}=" for key in known_keys() if key.startswith("data.")]
    for key, default in known_keys().items():
        found = completions(f"{key}=")
        assert (
            isinstance(default, list | type(None)) or not found or f"{key}={default}".lower() in map(str.lower, found)
        )
        for setting in found:
            try:
                load("quickstart", [setting])
            except UserError as error:  # what else this value needs
                assert "unknown" not in str(error) and "could not" not in str(error), setting
    assert completions("model.nam") == completions("model.name=") and completions("optim.lr") == [
        "optim.lr=", "optim.lr=0.1"
    ]  # fmt: skip
    assert completions("recipe=nothing") == completions("nothing") == []

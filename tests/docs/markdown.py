"""Markdown: the code blocks of a page, and a reader who types what it shows.

    `path/file.py`:        a block of Python after a line that ends so is that file; further blocks continue it
    ```console             lines with `$` are commands, what follows is what they print
    ```text                is shown and not run

In what a command prints, `...` stands for anything, and an id of 15 digits or more for any id; the first time it appears
it is learnt, and from then on it must be the same and is put into the commands.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"`([\w./-]+\.(?:py|toml))`[^`\n]*[:\uff1a]\s*\Z")
LONG_ID = re.compile(r"\d{15,20}")
PORT_SHOWN = "127.0.0.1:8000"
# A reaction in another process is woken at the latest by its own look, once a second; a request takes 10 ms, a command 1 s.
TRIES_OF_REQUEST, TRIES_OF_COMMAND = 500, 10
COMMAND_S = 300.0


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: What stands after the fence.
        text: What stands inside.
        before: The text between the last block and this one.
    """

    language: str
    text: str
    before: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text, found, end = page.read_text(encoding="utf-8"), [], 0
    for match in BLOCK.finditer(text):
        found.append(Block(match[1], match[2], text[end : match.start()]))
        end = match.end()
    return found


def files(page: Path) -> dict[str, str]:
    """The Python files that a page shows, whole: a block without a name continues the file before it."""
    made: dict[str, str] = {}
    name = ""
    for block in blocks(page):
        if block.language not in ("python", "toml"):
            continue
        named = FILE_NAME.search(block.before)
        name = named[1] if named else name
        assert name, f"{page.name}: a block belongs to no file"
        made[name] = f"{made[name]}\n\n{block.text}" if name in made else block.text
    return made


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows."""
    for name, text in files(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@dataclass
class Reader:
    """Somebody who types the commands of a page in one folder, with a free port instead of the one that it shows.

    Attributes:
        folder: Where the commands run.
        port: What the server listens on.
        environment: Further variables.
    """

    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            self.server.communicate(timeout=30)

    def session(self, text: str) -> None:
        """Type every command of a block and compare what it prints."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            self.type(command, shown.strip())

    def type(self, command: str, shown: str) -> None:
        """Type one command until it prints what the page shows: a reader looks again when a reaction is not done yet."""
        command = command.replace(PORT_SHOWN, f"127.0.0.1:{self.port}")
        for taught, real in self.ids.items():
            command = command.replace(taught, real)
        if command.startswith(("dujiang up", "make up")):
            self.start(command, shown)
            return
        printed = errors = ""
        for _ in range(TRIES_OF_REQUEST if command.startswith("curl") else TRIES_OF_COMMAND):
            done = subprocess.run(
                command,
                shell=True,
                cwd=self.folder,
                env=self.env(),
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
                check=False,
            )
            printed, errors = done.stdout.replace("\r\n", "\n").strip(), done.stderr
            if self.matches(shown, printed):
                return
        raise AssertionError(f"{command}\nprinted\n{printed}\n{errors}\nthe page shows\n{shown}")

    def start(self, command: str, shown: str) -> None:
        """Start the server and wait for its first line; `make up` is typed as what its recipe runs."""
        command = command.replace("make up", "dujiang up")
        self.server = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"], cwd=self.folder, env=self.env(), stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout is not None
        printed = self.server.stdout.readline().strip()
        assert printed == shown.replace(PORT_SHOWN, f"127.0.0.1:{self.port}")

    def env(self) -> dict[str, str]:
        """The environment of a command: this interpreter's programs first, nothing of Dujiang's but ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DUJIANG_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        return {**kept, "PATH": path, "DUJIANG_PORT": str(self.port), **self.environment}

    def matches(self, shown: str, printed: str) -> bool:
        """Whether a command printed what the page shows; learns the ids that the page shows for the first time."""
        pattern, fresh = "", []
        for piece in re.split(r"(\.\.\.|\d{15,20})", shown):
            if piece == "...":
                pattern += ".*?"
            elif LONG_ID.fullmatch(piece) and piece not in self.ids:
                pattern += f"(?P<n{piece}>\\d+)" if piece not in fresh else f"(?P=n{piece})"
                fresh.append(piece)
            else:
                pattern += re.escape(self.ids.get(piece, piece))
        match = re.fullmatch(pattern, printed, re.DOTALL)
        if match is not None:
            self.ids.update({piece: match[f"n{piece}"] for piece in fresh})
        return match is not None


def needed(program: str) -> None:
    """Fail, with the cure, when a program that a page uses is missing."""
    assert shutil.which(program), f"{program} is missing; apt-get install --no-install-recommends {program}"

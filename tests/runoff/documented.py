"""The commands of the documentation: found in its pages, checked against the command line's own parser, and a place to run them in.

A page is README.md or a file below docs/. A block in ```console (lines after `$ `), ```bash or ```sh is commands, one in ```python
a program. `<!-- not run: WHY -->` on the line before says of a block that it cannot run here, and why; it is parsed all the same.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from runoff.cli import cli
from tests.runoff.project import ISSUE, make

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
MEASURED = "docs/measured/"
"""What was run once, and how: it is parsed and does not run again."""
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


class Block(NamedTuple):
    page: str
    line: int
    kind: str
    text: str
    """As it is to be run: what a console shows is not in it."""
    not_run: str | None
    """Why it cannot run here."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> list[Block]:
    """The commands and programs of a page, top to bottom."""
    found, lines = list[Block](), text.splitlines()
    number = 0
    while number < len(lines):
        opened = re.match(r"(\s*)(`{3,}|~{3,})\s*([\w.+-]*)", lines[number])
        if not opened:
            number += 1
            continue
        indent, fence, kind = opened.groups()
        end = number + 1
        while end < len(lines) and lines[end].strip() != fence:
            end += 1
        inner = [line.removeprefix(indent) for line in lines[number + 1 : end]]
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        why = NOT_RUN.fullmatch(before.strip())
        if kind == "console":
            inner = list(_typed(inner))
        if kind in ("console", "bash", "sh", "python"):
            found.append(Block(page, number + 1, kind, "\n".join(inner) + "\n", why[1] if why else None))
        elif (
            not kind
            and not page.startswith(MEASURED)
            and any(re.match(r"(\$ )?(runoff|python -m runoff|\.?/?scripts/)", line) for line in inner)
        ):
            found.append(
                Block(page, number + 1, kind, "", "its commands are in a block that does not say so: write ```console")
            )
        number = end + 1
    return found


def _typed(lines: list[str]) -> Iterator[str]:
    """What is typed at a console: lines after `$ `, and those that go on after a backslash."""
    going = False
    for line in lines:
        if going or line.startswith("$ "):
            yield line if going else line.removeprefix("$ ")
            going = line.rstrip().endswith("\\")


def commands(block: Block) -> list[list[str]]:
    """The simple commands of a block, word by word. Raises AssertionError where the shell could not read it."""
    if block.kind == "python":
        return []
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert not checked.returncode, f"{block}: {checked.stderr}"
    found = list[list[str]]()
    for line in re.sub(r"\\\n", " ", block.text).splitlines():
        try:
            words = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
            words.whitespace_split = True
            parts = list(words)
        except ValueError:
            continue  # a part of a text of several lines
        command = list[str]()
        for word in [*parts, ";"]:
            if word and set(word) <= set(";&|()"):
                found += [command] if command else []
                command = []
            else:
                command.append(word)
    return found


def check(words: list[str]) -> str | None:
    """What is wrong with a command as far as can be said without running it; None: nothing."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if not words:
        return None
    program, rest = words[0], words[1:]
    if program in ("sudo", "time", "nohup", "exec"):
        return check(rest)
    if program.removeprefix(".venv/bin/") == "runoff":
        return parsed(rest)
    if re.match(r"python[\d.]*$", program.removeprefix(".venv/bin/")) and rest[:1] == ["-m"]:
        known = rest[1].split(".")[0] not in ("runoff", "tests") or importlib.util.find_spec(rest[1])
        return None if known else f"there is no module {rest[1]}"
    if re.match(r"(\./)?(scripts|tests)/", program):
        return None if (ROOT / program).exists() else f"there is no file {program}"
    return None


def parsed(words: list[str]) -> str | None:
    """What the command line's own parser says against `runoff WORDS`; values of choices and numbers are read, too."""
    if not words or words[0].startswith("-"):
        return None if {*words} <= {"--help", "-h", "--version"} else f"runoff has no option {words[0]}"
    command = cli.commands.get(words[0])
    if command is None:
        return f"runoff has no command {words[0]!r}"
    context = click.Context(command, info_name=words[0])
    for name, value in command.context_settings.items():
        setattr(context, name, value)
    rest = [word for word in words[1:] if word not in ("<", ">", ">>", "2>")]
    try:
        values, _, order = command.make_parser(context).parse_args(rest)
    except click.UsageError as error:
        return error.format_message()
    for parameter in {id(it): it for it in order}.values():
        if not isinstance(parameter, click.Option) or isinstance(parameter.type, click.Path):
            continue
        if isinstance(parameter.type, click.Tuple) or "…" in str(values.get(parameter.name)):
            continue
        try:
            parameter.type_cast_value(context, values[parameter.name])
        except click.UsageError as error:
            return error.format_message()
    return None


def inline(text: str) -> list[str]:
    """Commands of ours between single backticks: `runoff replay RUN --calibrate OUT`."""
    outside = re.sub(r"^\s*(```+|~~~+).*?^\s*\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return [found for found in re.findall(r"`(runoff [^`\n]+)`", outside) if not re.search(r"\.\w+\(|=|\{", found)]


FIX = "if values else 0"


class Place:
    """A directory as the pages assume it: a repository with a bug, its issue, what other agents left, and runs."""

    def __init__(self, folder: Path, states: Path, server: str) -> None:
        self.home = folder / "home"
        self.here = self.home / "src" / "project"
        _repository(self.here)
        _repository(self.home / "src" / "click")
        (self.home / ".cache" / "runoff").mkdir(parents=True)
        states.mkdir(parents=True, exist_ok=True)
        (self.home / ".cache" / "runoff" / "states").symlink_to(states)
        bin_, venv = folder / "bin", self.here / ".venv" / "bin"
        for place in (bin_, venv):
            place.mkdir(parents=True)
            for name, code in (("runoff", '-c "from runoff.cli import main; main()"'), ("python", "")):
                (place / name).write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n')
                (place / name).chmod(0o755)
        for name in ("scripts", "tests/runoff"):
            (self.here / name).parent.mkdir(parents=True, exist_ok=True)
        (self.here / "scripts").symlink_to(ROOT / "scripts")
        known = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_API_BASE"))}
        self.env = known | {
            "HOME": str(self.home),
            "PATH": f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OPENAI_API_KEY": "sk-of-the-test",
            "OPENAI_API_BASE": server,
            "OPENAI_BASE_URL": server,
            "RUNOFF_TRACEBACK": "1",
            "GIT_CONFIG_GLOBAL": str(self.home / ".gitconfig"),
        }
        (self.home / ".gitconfig").write_text("[safe]\ndirectory = *\n[user]\nname = t\nemail = t@localhost\n")
        self._files()

    def runs(self, names: Sequence[str]) -> None:
        """Runs of these names: two agents' patches of an issue of Django's, so to say, and one of them chosen."""
        if not names:
            return
        if not (made := self.here / "runs" / ".made").exists():
            problem = {"id": "django__django-11099", "target": ".", "issue": ISSUE, "test": "python -m pytest"}
            (self.here / "django.jsonl").write_text(json.dumps(problem) + "\n")
            rows = [json.loads((self.here / name).read_text()) for name in ("predictions.jsonl", "other.jsonl")]
            theirs = [row | {"instance_id": problem["id"]} for row in rows]
            (self.here / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in theirs))
            words = "runoff elect theirs.jsonl --problems django.jsonl --out runs/.made\n"
            done = self.run(Block("", 0, "bash", words, None))
            assert not done.returncode, done.stderr
        for name in names:
            shutil.copytree(made, self.here / "runs" / name)

    def run(self, block: Block, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """A block in the directory of its page, as it is written."""
        command = (
            [sys.executable, "-c", block.text]
            if block.kind == "python"
            else ["bash", "-eo", "pipefail", "-c", block.text]
        )
        return subprocess.run(
            command, cwd=self.here, env=self.env, capture_output=True, text=True, check=False, timeout=seconds
        )

    def _files(self) -> None:
        here, source = self.here, (self.here / "numbers_.py").read_text()
        better = source.replace("len(values)\n", f"len(values) {FIX}\n")
        worse = source.replace("len(values)\n", "(len(values) or 1 - 1)\n")
        diffs = [_diff(here, text) for text in (better, worse, better)]
        for name, diff in zip(("a", "b", "c"), diffs, strict=True):
            (here / f"{name}.diff").write_text(diff)
        (here / "bug.md").write_text(ISSUE)
        problem = {"id": "another__issue-7", "target": ".", "issue": ISSUE, "test": "python -m pytest"}
        (here / "problems.jsonl").write_text(json.dumps(problem) + "\n")
        several = [problem | {"id": name} for name in ("project", "again")]
        (here / "issues.jsonl").write_text("".join(json.dumps(one) + "\n" for one in several))

        def predicted(agent: str, diff: str) -> dict[str, str]:
            return {"instance_id": "another__issue-7", "model_name_or_path": agent, "model_patch": diff}

        (here / "sweagent").mkdir()
        for name, agent, diff in (
            ("preds.json", "one", diffs[0]),
            ("predictions.jsonl", "one", diffs[0]),
            ("other.jsonl", "two", diffs[1]),
            ("sweagent/preds.json", "sweagent", diffs[0]),
            ("openhands.jsonl", "openhands", diffs[1]),
        ):
            row = predicted(agent, diff)
            (here / name).write_text(json.dumps({row["instance_id"]: row} if name.endswith(".json") else row) + "\n")
        row = {"instance_id": "a__b-1", "repo": "a/b", "base_commit": "0" * 40, "problem_statement": ISSUE}
        (here / "rows.jsonl").write_text(json.dumps(row) + "\n")
        (here / "preds").mkdir()
        for name in ("preds.json", "other.jsonl"):
            shutil.copyfile(here / name, here / "preds" / name)
        labels = [
            {"instance_id": name, "agent": agent, "resolved": agent in ("one", "a", "c", "sweagent")}
            for agent in ("one", "two", "a", "b", "c", "sweagent", "openhands", "agent/one", "agent/two")
            for name in ("project", "another__issue-7", "click", "django__django-11099")
        ]
        shutil.copyfile(here / "problems.jsonl", here / "more-problems.jsonl")
        shutil.copyfile(here / "predictions.jsonl", here / "more.jsonl")
        (here / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
        for name, text in (("agent/one", better), ("agent/two", worse)):
            for command in (
                ("checkout", "-q", "-b", name),
                ("add", "numbers_.py"),
                ("commit", "-q", "-m", name),
                ("checkout", "-q", "main"),
            ):
                if command[0] == "add":
                    (here / "numbers_.py").write_text(text)
                _git(here, *command)


def _repository(folder: Path) -> None:
    make(folder)
    (folder / ".gitignore").write_text("*.md\n*.jsonl\n*.json\n*.diff\nruns/\n.venv/\nscripts\nsweagent/\npreds/\n")
    _git(folder, "init", "-q", "-b", "main")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "a project")


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def _diff(folder: Path, text: str) -> str:
    file = folder / "numbers_.py"
    before = file.read_text()
    file.write_text(text)
    diff = _git(folder, "diff")
    file.write_text(before)
    return diff


def unknown_options(page: str, text: str) -> Mapping[str, str]:
    """Where → what is wrong, of all commands of ours on a page."""
    wrong = dict[str, str]()
    for block in blocks(page, text):
        if not block.kind and block.not_run:
            wrong[str(block)] = block.not_run
        for words in commands(block):
            if said := check(words):
                wrong[f"{block}: {' '.join(words)}"] = said
    for command in inline(text):
        words = [word for word in shlex.split(command.replace("…", ""), comments=True) if word != "|"][1:]
        if words and (said := parsed(words)) and "requires an argument" not in said:  # an option may be named by itself
            wrong[f"{page}: `{command}`"] = said
    return wrong

# ruff: noqa: ASYNC240 - one thing after another
"""Real projects, drawn by a rule: each environment built unattended, without a model, and its tests run once.

    projects draw --pypi pypi.tsv --npm npm.tsv     writes projects.toml beside this file: done once, before anything was built
    projects run --out DIR [--only NAME]            builds and tries each; writes DIR/results.json, and prints the table
    projects table DIR...                           prints it again, of one run or several that each tried a part

The rule, stated before the first draw. Seed 20261126. Of each list a shuffle by the seed, taken from the front, what does not fit left out:

- 8 PyPI source distributions: of the names ranked 1 to 2,000 by downloads (a table with the columns name, version,
  month, rank), at the table's version; those that have a source distribution of at most 8 MB that holds a file
  test_*.py or *_test.py, or a folder called test or tests.
- 4 npm packages: of the 2,000 most downloaded (columns name, version, downloads); those whose published package has
  a test script that is not npm's default, and a file in a folder called test, tests or __tests__ or called *.test.*,
  *.spec.* or test.js. Most packages leave their tests out, so most draws do not fit.
- 2 Debian source packages: of those whose binary packages are tagged as implemented in C or C++ and take at most
  1,000 KB installed; those whose source has, at its top, a CMakeLists.txt, configure, configure.ac, meson.build or
  Makefile, and a folder called test, tests, testsuite or t, and whose build dependencies are at most 25 further packages.
  Those are installed beforehand, by apt-get build-dep.

A project works if its test command runs and some tests pass.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

from runoff.agent.doubles import Scripted
from runoff.agent.log import Log
from runoff.agent.step import World
from runoff.environments import EnvironmentFailed, fetch_package, fetch_sdist, maker
from runoff.instance import local_instance
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import Sandbox, SandboxError
from runoff.setups import Settled, detected, settle

SEED = 20261126
RANKED, LARGEST = 2000, 8 << 20
LIST = Path(__file__).with_name("projects.toml")
WANTED = {"pypi": 8, "npm": 4, "debian": 2}
_PYTHON_TESTS = re.compile(r"(?:^|/)(?:test_[^/]*\.py|[^/]*_test\.py)$|(?:^|/)tests?/")
_NODE_TESTS = re.compile(r"(?:^|/)(?:tests?|__tests__)/|\.(?:test|spec)\.\w+$|(?:^|/)test\.[cm]?js$")
_TOP = ("CMakeLists.txt", "configure", "configure.ac", "meson.build", "Makefile")


async def draw(pypi: Path, npm: Path) -> None:
    """Write the list. What was passed over stands in it, with why."""
    found: dict[str, list[dict[str, str]]] = {"project": [], "passed_over": []}
    async with open_backend("auto", Path.home() / ".cache" / "runoff" / "states") as sandbox:
        for kind, names in (("pypi", _of_pypi(pypi)), ("npm", _of_npm(npm)), ("debian", _of_debian())):
            taken = 0
            for name, version in names:
                why = await _fits(sandbox, kind, name, version)
                found["passed_over" if why else "project"].append(
                    {"kind": kind, "name": name, "version": version} | ({"why": why} if why else {})
                )
                print(kind, name, version, why or "taken", flush=True)
                taken += not why
                if taken == WANTED[kind]:
                    break
    LIST.write_text(f"# Drawn by projects.py: the rule stands there.\nseed = {SEED}\n{tomli_w.dumps(found)}")


async def run(out: Path, only: list[str]) -> int:
    out.mkdir(parents=True, exist_ok=True)
    projects = [one for one in tomllib.loads(LIST.read_text())["project"] if not only or one["name"] in only]
    place = out / "results.json"
    known: dict[str, dict[str, Any]] = json.loads(place.read_text()) if place.exists() else {}
    async with open_backend("auto", out / "states") as sandbox:
        for one in projects:
            print(f"── {one['kind']} {one['name']} {one['version']}", file=sys.stderr, flush=True)
            known[one["name"]] = one | await _one(sandbox, one, out)
            place.write_text(json.dumps(known, indent=1))
    print(table([known[one["name"]] for one in projects]))
    return 0


async def _one(sandbox: Sandbox, one: dict[str, str], out: Path) -> dict[str, Any]:
    """Build and try one; how long each part took."""
    with tempfile.TemporaryDirectory() as folder:
        tree = await _source(sandbox, one["kind"], one["name"], one["version"], Path(folder))
        instance, _ = local_instance(tree, "none")
        began = time.monotonic()
        log = out / "log" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', one['name'])}-{int(time.time())}.jsonl"
        world = World(Log(log), instance.id, Scripted([]), sandbox)
        found = detected(instance)
        facts = [f"{fact.what}: {fact.value} ({', '.join(map(str, fact.at))})" for fact in found.facts]

        def tell(text: str) -> None:
            print(f"   {text}", file=sys.stderr, flush=True)

        try:
            _, settled = await settle(world, instance, maker(world, tell), tell)
        except (EnvironmentFailed, SandboxError) as error:
            settled = Settled(name="nothing", declared={}, why=str(error))
            settled_from = world.log.effects["setup"].get("settled")
            settled = Settled.model_validate(settled_from["result"]) if settled_from else settled
        finally:
            await world.close()
        seconds = time.monotonic() - began
    return {
        "language": found.language,
        "facts": facts,
        "seconds": round(seconds, 1),
        "settled": settled.model_dump(mode="json"),
        "works": settled.works,
        "said": str(settled),
    }


def table(results: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| project | detected | settled on | time | passed | failed | could not tell | works | what failed, and why |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        settled = Settled.model_validate(one["settled"])
        counts = settled.tally
        why = settled.why or (
            "; ".join(counts.reasons) or counts.said if counts and (not counts.works or counts.failed) else ""
        )
        brief = " ".join(why.replace("=", "").split())[-240:].replace("|", "\\|") if why else ""
        lines.append(
            f"| {one['kind']}: {one['name']} {one['version']} | {one['language']} | {settled.name} | {one['seconds']:.0f} s "
            f"| {counts.passed if counts else 0} | {counts.failed if counts else 0} | {counts.untold_count if counts else 0} "
            f"| {'yes' if one['works'] else 'no'} | {brief} |"
        )
    works = sum(one["works"] for one in results)
    return "\n".join([*lines, "", f"{works} of {len(results)} work."])


async def _fits(sandbox: Sandbox, kind: str, name: str, version: str) -> str:
    """Why a draw does not fit; empty if it does."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            tree = await _source(sandbox, kind, name, version, Path(folder))
        except (EnvironmentFailed, SandboxError, subprocess.CalledProcessError, tarfile.TarError, OSError) as error:
            line = (
                error.stderr.strip().splitlines()[-1:]
                if isinstance(error, subprocess.CalledProcessError)
                else [str(error)]
            )
            return "no source: " + "".join(re.sub(r"https?://\S+", "…", one) for one in line)[:100]
        paths = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
        if size > 10 * LARGEST:
            return "larger than the limit"
        if kind == "pypi":
            return "" if any(map(_PYTHON_TESTS.search, paths)) else "no tests in it"
        if kind == "npm":
            script = json.loads((tree / "package.json").read_text()).get("scripts", {}).get("test", "")
            if not script or "no test specified" in script:
                return "no test script"
            return "" if any(map(_NODE_TESTS.search, paths)) else "no tests in it"
        if not any((tree / name).exists() for name in _TOP):
            return "nothing at its top that builds it"
        if not any((tree / name).is_dir() for name in ("test", "tests", "testsuite", "t")):
            return "no folder of tests"
        return ""


async def _source(sandbox: Sandbox, kind: str, name: str, version: str, folder: Path) -> Path:
    if kind == "debian":
        return _debian(name, version, folder)
    fetch = fetch_sdist if kind == "pypi" else fetch_package
    packed = await fetch(sandbox, name, version)
    if len(packed) > LARGEST:
        raise OSError("larger than 8 MB")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")
    (top,) = [path for path in folder.iterdir() if path.is_dir()]
    return top


def _of_pypi(table_: Path) -> Iterator[tuple[str, str]]:
    rows = [
        row
        for row in csv.reader(table_.open(), delimiter="\t")
        if len(row) > 3 and row[3].isdigit() and int(row[3]) <= RANKED
    ]
    names = sorted((row[0], row[1]) for row in rows)
    random.Random(f"{SEED} pypi").shuffle(names)
    yield from names


def _of_npm(table_: Path) -> Iterator[tuple[str, str]]:
    rows = [row for row in csv.reader(table_.open(), delimiter="\t") if len(row) > 2 and row[2].isdigit()]
    rows.sort(key=lambda row: (-int(row[2]), row[0]))
    names = sorted((row[0], row[1]) for row in rows[:RANKED])
    random.Random(f"{SEED} npm").shuffle(names)
    yield from names


def _of_debian() -> Iterator[tuple[str, str]]:
    """Source packages, from what apt knows; their build dependencies are installed as they are taken."""
    said = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    names = set[str]()
    for entry in said.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Source|Installed-Size|Tag): ?(.*(?:\n .*)*)", entry, re.MULTILINE))
        if (
            re.search(r"implemented-in::c(?:\+\+)?(?:,|\s|$)", fields.get("Tag", ""))
            and int(fields.get("Installed-Size", "9999")) <= 1000
        ):
            names.add(fields.get("Source", fields["Package"]).split()[0])
    ordered = sorted(names)
    random.Random(f"{SEED} debian").shuffle(ordered)
    for name in ordered:
        yield name, ""


def _debian(name: str, version: str, folder: Path) -> Path:
    """`apt-get source`, by sources of our own beside this machine's: those of its Debian with their sources."""
    apt = Path(tempfile.gettempdir()) / "runoff-deb-src"
    options = [
        "-o",
        f"Dir::State::lists={apt}/lists",
        "-o",
        f"Dir::Etc::sourcelist={apt}/none",
        "-o",
        f"Dir::Etc::sourceparts={apt}/parts",
    ]
    if not (apt / "lists").exists():
        (apt / "parts").mkdir(parents=True, exist_ok=True)
        (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        for file in Path("/etc/apt/sources.list.d").glob("debian.sources"):
            text = re.sub(r"^Types: deb$", "Types: deb deb-src", file.read_text(), flags=re.MULTILINE)
            (apt / "parts" / file.name).write_text(text)
        subprocess.run(["apt-get", *options, "update", "-qq"], check=True, capture_output=True, text=True)
    wanted = f"{name}={version}" if version else name
    plan = subprocess.run(
        ["apt-get", *options, "build-dep", "--simulate", wanted], check=True, capture_output=True, text=True
    ).stdout
    if len(re.findall(r"^Inst ", plan, re.MULTILINE)) > 25:
        raise OSError("more than 25 packages to build it")
    subprocess.run(
        ["apt-get", *options, "source", "-qq", wanted], check=True, capture_output=True, text=True, cwd=folder
    )
    (top,) = [path for path in folder.iterdir() if path.is_dir()]
    shutil.rmtree(top / ".pc", ignore_errors=True)
    install = ["apt-get", *options, "build-dep", "-y", "-qq", "--no-install-recommends", wanted]
    subprocess.run(
        install,
        check=True,
        capture_output=True,
        text=True,
        env={"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    return top


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawn = commands.add_parser("draw")
    drawn.add_argument("--pypi", type=Path, required=True)
    drawn.add_argument("--npm", type=Path, required=True)
    ran = commands.add_parser("run")
    ran.add_argument("--out", type=Path, required=True)
    ran.add_argument("--only", action="append", default=[])
    commands.add_parser("table").add_argument("folders", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "table":
        known = {
            name: one
            for folder in given.folders
            for name, one in json.loads((folder / "results.json").read_text()).items()
        }
        print(table([known[one["name"]] for one in tomllib.loads(LIST.read_text())["project"] if one["name"] in known]))
        return 0
    if given.command == "draw":
        asyncio.run(draw(given.pypi, given.npm))
        return 0
    return asyncio.run(run(given.out, given.only))


if __name__ == "__main__":
    sys.exit(main())

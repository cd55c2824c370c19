"""The window as one file: the same page, with the answers that it would ask for inside. It loads nothing and works from a disk."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from runoff.report import count
from runoff.run import BadRun
from runoff.viewer import content
from runoff.viewer.server import assets
from runoff.viewer.store import Looked, Store

LIMIT = 25_000_000
"""Bytes of an exported page."""

_NAMES = {
    "trajectory": ("trajectory", "trajectories"),
    "cell": ("cell", "cells"),
    "candidate": ("candidate", "candidates"),
    "message": ("prompt", "prompts"),
}


class Exported(NamedTuple):
    text: str
    kept: str
    left_out: str
    """Empty: nothing is."""


def page(store: Store, limit: int = LIMIT) -> Exported:
    """A page of at most `limit` bytes. What is decided on comes first, then trajectories, those of what was chosen before the
    others, then all of their prompts; what does not fit is left out, and the page says so. Raises BadRun where not even
    the first does."""
    (listed,) = store.listed()
    looked = store.run(listed.path)
    for name in looked.names:
        looked.look(name)
    parts, kept, left, size = list[str](), Counter[str](), Counter[str](), 120_000
    prompts = dict[str, list[str]]()

    def take(asked: list[str]) -> bool:
        """Whether it fits."""
        nonlocal size
        try:
            answer = content.answer(store, asked)
        except content.NotHere:
            return True
        line = f"{json.dumps(_key(asked))}:{json.dumps(_packed(answer))}"
        if size + len(line) > limit:
            left[asked[0]] += 1
            return False
        if asked[0] == "trajectory":
            cut = (one for turn in answer["turns"] for one in turn["told"] if one["size"] > len(one["text"]))
            prompts.update({one["digest"]: ["message", *asked[1:3], one["digest"]] for one in cut})
        size += len(line) + 2
        kept[asked[0]] += 1
        parts.append(line)
        return True

    if not all(take(asked) for asked in _first(store, looked)):
        raise BadRun(f"what is known of the instances alone takes more than {limit / 1e6:g} MB; give a larger --limit")
    for asked in _rest(store, looked):
        take(asked)
    for asked in list(prompts.values()):
        take(asked)
    said = {"run": looked.name, "left": _said(left)}
    return Exported(_page(parts, said), _said(kept), said["left"])


def _first(store: Store, looked: Looked) -> Iterator[list[str]]:
    yield ["runs"]
    yield ["run", looked.name]
    for name in looked.names:
        yield ["instance", looked.name, name]


def _rest(store: Store, looked: Looked) -> Iterator[list[str]]:
    """By what a reader looks at first: candidates, cells, then trajectories, those of what was chosen and of run-offs first."""
    later = list[tuple[int, list[str]]]()
    for name in looked.names:
        said = content.answer(store, ["instance", looked.name, name])
        selection, chosen = said["selection"], said["chosen"] or ""
        for entry in selection["entries"] if selection else ():
            yield ["candidate", looked.name, name, entry["id"]]
        table = selection["table"] if selection else None
        if table:
            for row in ("base", *table["rows"]):
                tests = [
                    *table["tests"],
                    *(["control"] if row != "base" else []),
                    *(["repository"] if table["repository"] else []),
                ]
                later += [(1, ["cell", looked.name, name, row, test]) for test in tests]
        number = chosen.rpartition("-")[2]
        for unit in said["units"]:
            if unit["name"] != "votes":
                near = unit["stage"] == "run-off" or (bool(number) and unit["name"].endswith(f"-{number}"))
                later.append((0 if near else 2, ["trajectory", looked.name, name, unit["name"]]))
    for _, asked in sorted(later, key=lambda one: one[0]):
        yield asked


def _key(asked: list[str]) -> str:
    """As the page writes what it asks for."""
    return json.dumps(asked, separators=(",", ":"), ensure_ascii=False)


def _packed(answer: Any) -> str:
    """Letters that end no script, whatever a repository or a model wrote."""
    return base64.b64encode(zlib.compress(json.dumps(answer, separators=(",", ":")).encode(), 9)).decode()


def _page(parts: list[str], said: dict[str, str]) -> str:
    script, style = assets()["view.js"], assets()["view.css"]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (script, style)
    ]
    policy = (
        f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    data = _in_script("{" + ",\n".join(parts) + "}")
    about = _in_script(json.dumps(said))
    html = assets()["index.html"]
    html = re.sub(r"<link rel=\"stylesheet\"[^>]*>", lambda _: f"<style>{style}</style>", html)
    html = html.replace(
        "<meta charset", f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<meta charset', 1
    )
    return re.sub(
        r"<script type=\"module\"[^>]*></script>",
        lambda _: (
            f'<script type="application/json" id="about">{about}</script>\n'
            f'<script type="application/json" id="answers">{data}</script>\n<script type="module">{script}</script>'
        ),
        html,
    )


def _in_script(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _said(counted: Counter[str]) -> str:
    return ", ".join(
        count(counted[kind], *names) for kind, names in (("instance", ("instance",)), *_NAMES.items()) if counted[kind]
    )

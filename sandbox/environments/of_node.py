"""Detection of JavaScript and TypeScript packages: npm, pnpm, yarn; which Node; what runs the tests, with and without the linters. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from runoff.sandbox.environments.of_python import Found
from runoff.sandbox.environments.sayings import Evidence, Sayings, line_of, text_of

FILES = (
    *(
        ".nvmrc",
        ".node-version",
        "pnpm-lock.yaml",
        "pnpm-workspace.yaml",
        "yarn.lock",
        ".yarnrc.yml",
        "bun.lock",
        "tsconfig.json",
    ),
    *(".mocharc.json", ".mocharc.js", "jest.config.js", "vitest.config.ts", "vitest.config.js"),
)
NO_TEST = "no test specified"
_RUNNERS = (
    ("vitest", "npx vitest run"),
    ("jest", "npx jest"),
    ("mocha", "npx mocha"),
    ("ava", "npx ava"),
    ("tap", "npx tap --no-coverage"),
    ("tape", "npx tape 'test/**/*.js'"),
    ("uvu", "npx uvu"),
    ("jasmine", "npx jasmine"),
    ("lab", "npx lab"),
)
_OF_RUNNERS = re.compile(
    r"\b(?:vitest|jest|mocha|_mocha|ava|tap|tape|uvu|jasmine|lab|qunit|karma|node --test|node:test|tsd|nodeunit|borp|brittle|wdio|aegir)\b"
    r"|\bnode (?:--?[\w=-]+ )*(?:\./)?(?:test|spec)"
)
_LINTS = re.compile(
    r"\b(?:lint|eslint|standard|xo|prettier|tsc --noEmit|biome|semistandard|jshint|audit|publint|attw|dtslint)\b"
)
_DOWNLOADS = {
    **dict.fromkeys(
        ("PUPPETEER_SKIP_DOWNLOAD", "PUPPETEER_SKIP_CHROMIUM_DOWNLOAD", "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD"), "1"
    ),
    "CYPRESS_INSTALL_BINARY": "0",
    "ELECTRON_SKIP_BINARY_DOWNLOAD": "1",
    "HUSKY": "0",
    "CI": "1",
}
"""Without these some packages fetch browsers while they are installed, which no index has, or wait for someone at a terminal."""


def detect(paths: frozenset[str], files: Mapping[str, bytes], said: Sayings) -> Found:
    """See `detection.detect`."""
    text = text_of(files.get("package.json", b""))
    package = _json(files.get("package.json", b""))
    scripts = {name: value for name, value in _table(package.get("scripts")).items() if isinstance(value, str)}
    facts: list[tuple[str, str, tuple[Evidence, ...]]] = []

    manager, version, why = _manager(paths, package, text)
    facts.append(("package manager", f"{manager} {version}".strip(), (why,)))
    versions, at = _versions(files, package, text, said)
    if versions:
        facts.append(("Node", ", ".join(versions), at))

    steps = [f"{_install(manager, version, paths)} || {_one_by_one(package)}"] if "package.json" in paths else []
    if "build" in scripts and not re.search(r"\b(?:next|docker|electron-builder)\b", scripts["build"]):
        steps.append("npm run build || true")
        facts.append(
            (
                "built by",
                f"npm run build ({scripts['build'][:80]})",
                (Evidence(file="package.json", line=line_of(text, '"build"')),),
            )
        )
    tests, why_tests = _tests(paths, package, scripts, text)
    facts.append(("tests", " | ".join(tests) or "none", why_tests))
    build = "npm run --if-present build" if "build" in scripts else "npm run --if-present prepare"
    return Found(facts, versions, tuple(steps), build, tests, dict(_DOWNLOADS), ("node", "npm"), plain=manager == "npm")


def _manager(paths: frozenset[str], package: Mapping[str, Any], text: str) -> tuple[str, str, Evidence]:
    """npm, pnpm or yarn, and its version if one is said."""
    named = re.match(r"(npm|pnpm|yarn)@(\d+(?:\.\d+){0,2})", str(package.get("packageManager", "")))
    if named:
        return named[1], named[2], Evidence(file="package.json", line=line_of(text, "packageManager"), words=named[0])
    for lock, manager in (
        ("pnpm-lock.yaml", "pnpm"),
        ("pnpm-workspace.yaml", "pnpm"),
        ("yarn.lock", "yarn"),
        ("package-lock.json", "npm"),
        ("npm-shrinkwrap.json", "npm"),
    ):
        if lock in paths:
            return manager, "", Evidence(file=lock)
    return "npm", "", Evidence(file="package.json")


def _install(manager: str, version: str, paths: frozenset[str]) -> str:
    """npm has the last word: a lock may name hosts that are no index of this machine."""
    npm = "npm install --no-package-lock || npm install --no-package-lock --legacy-peer-deps --ignore-scripts"
    if manager == "npm":
        return f"npm ci || {npm}" if {"package-lock.json", "npm-shrinkwrap.json"} & paths else npm
    if manager == "pnpm":
        return (
            f"{{ npm install --global --prefix /env pnpm{f'@{version}' if version else ''} && "
            f"{{ pnpm install --frozen-lockfile || pnpm install --no-frozen-lockfile; }}; }} || {npm}"
        )
    if version and int(version.split(".")[0]) > 1:
        return (
            f"{{ npm install --global --prefix /env @yarnpkg/cli-dist@{version} && "
            'YARN_NPM_REGISTRY_SERVER="$(npm config get registry | sed s,/$,,)" YARN_ENABLE_IMMUTABLE_INSTALLS=false '
            f"yarn install; }} || {npm}"
        )
    yarn = 'yarn install --frozen-lockfile --registry "$(npm config get registry)"'
    return f"{{ npm install --global --prefix /env yarn@1 && {yarn}; }} || {npm}"


_NOT_FOR_TESTS = re.compile(
    r"lint|prettier|^xo$|standard|changelog|publish|npmignore|husky|release|commit|^aud$|evalmd|size-limit|docs?$"
)


def _one_by_one(package: Mapping[str, Any]) -> str:
    """What can be had, where one of the tools for development cannot (it lies on a git host, say) and npm gives up on all."""
    npm = "npm install --no-package-lock --legacy-peer-deps --ignore-scripts"
    wanted = [
        shlex.quote(f"{name}@{version}")
        for name, version in list(_table(package.get("devDependencies")).items())[:60]
        if isinstance(version, str)
        and re.fullmatch(r"(?:@[\w.-]+/)?[\w.-]+", name)
        and re.fullmatch(r"[\w.^~<>=|* -]{1,60}", version)
        if not _NOT_FOR_TESTS.search(name)
    ]
    each = f'for one in {" ".join(wanted)}; do {npm} --save-dev "$one" || true; done; ' if wanted else ""
    kept, back = "cp package.json /tmp/package.json", "cp /tmp/package.json package.json"
    return f"{{ {kept}; npm pkg delete devDependencies; {npm} || true; {each}{back}; }}"


def _versions(
    files: Mapping[str, bytes], package: Mapping[str, Any], text: str, said: Sayings
) -> tuple[tuple[str, ...], tuple[Evidence, ...]]:
    found, at = list[str](), list[Evidence]()
    for name in (".nvmrc", ".node-version"):
        if exact := re.match(r"v?(\d+)", text_of(files.get(name, b"")).strip()):
            found.append(exact[1])
            at.append(Evidence(file=name, line=1, words=exact[0]))
    in_ci = [(version, where) for language, version, where in said.versions if language == "node"]
    found += sorted({version.split(".")[0] for version, _ in in_ci}, key=int, reverse=True)
    at += [where for _, where in in_ci[:1]]
    engines = _table(package.get("engines")).get("node")
    if isinstance(engines, str):
        at.append(Evidence(file="package.json", line=line_of(text, '"engines"'), words=f"node {engines}"[:100]))
    return tuple(dict.fromkeys(found))[:8], tuple(at[:3])


def _tests(
    paths: frozenset[str], package: Mapping[str, Any], scripts: Mapping[str, str], text: str
) -> tuple[tuple[str, ...], tuple[Evidence, ...]]:
    """`npm test`, then its parts that run tests, without the linters around them."""
    commands, why = list[str](), list[Evidence]()
    whole = scripts.get("test", "")
    if whole and NO_TEST not in whole:
        commands.append("npm test --silent")
        why.append(Evidence(file="package.json", line=line_of(text, '"test"'), words=whole[:200]))
    for name, script in scripts.items():
        if (
            name != "test"
            and re.fullmatch(
                r"(?:tests?-only|unit|mocha|jest|tap|ava|vitest|test[:_-](?:unit|node|js|only|ci|cjs|esm|run|mocha|jest|spec)|unit-?tests?|tests?|spec)",
                name,
            )
            and _OF_RUNNERS.search(script)
        ):
            commands.append(f"npm run --silent {name}")
            why.append(Evidence(file="package.json", line=line_of(text, f'"{name}"'), words=script[:200]))
    for part in re.split(r"\s*(?:&&|;)\s*", whole):
        if (
            part != whole
            and _OF_RUNNERS.search(part)
            and not _LINTS.search(part)
            and not part.startswith(("npm ", "yarn ", "pnpm "))
        ):
            commands.append(f"PATH=$PWD/node_modules/.bin:$PATH {part}")
    wanted = {**_table(package.get("devDependencies")), **_table(package.get("dependencies"))}
    commands += [command for name, command in _RUNNERS if name in wanted][:2]
    files = sorted(
        path
        for path in paths
        if re.fullmatch(
            r"(?:test|tests|spec)(?:\.(?:js|mjs|cjs))|(?:test|tests)/(?:index|test|all)\.(?:js|mjs|cjs)", path
        )
    )
    if any(re.search(r"\.test\.(?:js|mjs|cjs)$|^tests?/.*\.(?:js|mjs|cjs)$", path) for path in paths):
        commands.append("node --test")
    commands += [f"node {path}" for path in files[:1]]
    if not why and files:
        why.append(Evidence(file=files[0]))
    return tuple(dict.fromkeys(commands))[:6], tuple(why[:3])


def _json(data: bytes) -> dict[str, Any]:
    if len(data) > 1 << 20:
        return {}
    try:
        return _table(json.loads(text_of(data, 1 << 20)))
    except (ValueError, RecursionError):
        return {}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

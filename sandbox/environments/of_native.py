"""Detection of Go, Rust, C and C++: what builds them with this machine's own tools, so that their tests run without network. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from runoff.sandbox.environments.of_python import Found
from runoff.sandbox.environments.sayings import Evidence, Sayings, line_of, text_of, toml

MANIFESTS = (
    "CMakeLists.txt",
    "meson.build",
    "configure.ac",
    "configure.in",
    "configure",
    "autogen.sh",
    "Makefile",
    "makefile",
    "GNUmakefile",
)
FILES = (
    *MANIFESTS,
    "go.sum",
    "Cargo.lock",
    "rust-toolchain.toml",
    "rust-toolchain",
    "Makefile.am",
    "Makefile.in",
    "meson_options.txt",
    "meson.options",
    "vcpkg.json",
    "conanfile.txt",
)
PACKAGES = {
    "go": "golang-go",
    "cargo": "cargo",
    "rustc": "rustc",
    "cmake": "cmake",
    "make": "make",
    "gcc": "gcc libc6-dev",
    "g++": "g++",
    "meson": "meson",
    "ninja": "ninja-build",
    "autoreconf": "autoconf automake libtool",
    "pkg-config": "pkg-config",
    "node": "nodejs",
    "npm": "npm",
}
"""Program → the Debian packages that have it."""


def detect(
    language: Literal["go", "rust", "c", "python", "node"],
    paths: frozenset[str],
    files: Mapping[str, bytes],
    said: Sayings,
) -> Found:
    """See `detection.detect`."""
    if language == "go":
        return _go(paths, files)
    if language == "rust":
        return _rust(paths, files)
    return _c(paths, files, said)


def _go(paths: frozenset[str], files: Mapping[str, bytes]) -> Found:
    text = text_of(files.get("go.mod", b""))
    version = re.search(r"^go (\d+\.\d+)", text, re.MULTILINE)
    facts: list[tuple[str, str, tuple[Evidence, ...]]] = []
    if version:
        facts.append(
            (
                "Go",
                f"{version[1]} or later",
                (Evidence(file="go.mod", line=line_of(text, version[0]), words=version[0]),),
            )
        )
    vendored, needs = (
        any(path.startswith("vendor/") for path in paths),
        bool(re.search(r"^\s*(?:require\b|[\w.-]+\.[\w./-]+ v\d)", text, re.MULTILINE)),
    )
    mode = "-mod=vendor" if vendored else "-mod=mod"
    if needs:
        facts.append(
            (
                "modules",
                "vendored" if vendored else "from the module proxy",
                (Evidence(file="go.mod", line=line_of(text, "require")),),
            )
        )
    steps = (["go mod init example.com/repository"] if "go.mod" not in paths else []) + (
        ["go mod download"] if needs and not vendored else []
    )
    steps += ["go build ./... || true", "go test -run '^$' ./... >/dev/null || true"]  # what they compile is kept
    facts.append(
        (
            "tests",
            "go test ./...",
            (Evidence(file=next((path for path in sorted(paths) if path.endswith("_test.go")), "go.mod")),),
        )
    )
    env = {"GOFLAGS": mode, "GOTOOLCHAIN": "local"}
    # Offline in the run phase: what is not in the module cache by then is not to be had.
    tests = ("GOPROXY=off GOSUMDB=off go test ./...",)
    return Found(facts, (version[1],) if version else (), tuple(steps), None, tests, env, ("go",))


def _rust(paths: frozenset[str], files: Mapping[str, bytes]) -> Found:
    data, text = toml(files.get("Cargo.toml", b"")), text_of(files.get("Cargo.toml", b""))
    facts: list[tuple[str, str, tuple[Evidence, ...]]] = []
    workspace = isinstance(data.get("workspace"), dict)
    package = data.get("package")
    wanted = package.get("rust-version") if isinstance(package, dict) else None
    if isinstance(wanted, str):
        facts.append(
            (
                "Rust",
                f"{wanted} or later",
                (Evidence(file="Cargo.toml", line=line_of(text, "rust-version"), words=wanted[:40]),),
            )
        )
    facts.append(("tests", "cargo test", (Evidence(file="Cargo.toml", line=1),)))
    everywhere = " --workspace" if workspace else ""
    locked = "Cargo.lock" in paths
    steps = (
        "cargo fetch" if locked else "cargo generate-lockfile && cargo fetch",
        f"cargo test{everywhere} --offline --no-run || cargo build{everywhere} --offline",
    )
    env = {"CARGO_TERM_COLOR": "never"}
    tests = (f"cargo test{everywhere} --offline",)
    return Found(facts, (), steps, f"cargo build{everywhere} --offline", tests, env, ("cargo", "rustc", "gcc"))


def _c(paths: frozenset[str], files: Mapping[str, bytes], said: Sayings) -> Found:
    facts: list[tuple[str, str, tuple[Evidence, ...]]] = []
    place = "build" if not any(path.startswith("build/") for path in paths) else "build-here"
    plus = any(path.endswith((".cc", ".cpp", ".cxx", ".hpp")) for path in paths)
    compilers = ("gcc", "g++") if plus else ("gcc",)
    if "CMakeLists.txt" in paths:
        text = text_of(files.get("CMakeLists.txt", b""))
        switches = re.findall(
            r"^\s*(?:cmake_dependent_)?option\s*\(\s*(\w*(?:TEST|CHECK)\w*)\s", text, re.MULTILINE | re.IGNORECASE
        )
        switches = [
            one
            for one in dict.fromkeys([*switches, "BUILD_TESTING"])
            if not re.search(r"FUZZ|BENCH|COVERAGE|MEMCHECK|VALGRIND|NO_|DISABLE|INSTALL|_ONLY", one, re.I)
        ]
        facts.append(("built by", "CMake", (Evidence(file="CMakeLists.txt", line=1),)))
        if switches[:-1]:
            facts.append(
                (
                    "tests are built by",
                    ", ".join(switches[:6]),
                    (Evidence(file="CMakeLists.txt", line=line_of(text, switches[0])),),
                )
            )
        at = line_of(text, "enable_testing") or line_of(text, "add_test") or line_of(text, "include(CTest")
        facts.append(("tests", "ctest", (Evidence(file="CMakeLists.txt", line=at),)))
        on = " ".join(f"-D{one}=ON" for one in switches[:6])
        build = f"cmake --build {place} --parallel 2"
        steps = (f"cmake -S . -B {place} {on}", build)
        return Found(
            facts,
            (),
            steps,
            build,
            (
                f"ctest --test-dir {place} --output-on-failure",
                f"cmake --build {place} --target check",
                f"make -C {place} test",
            ),
            {},
            ("cmake", "make", *compilers),
        )
    if "meson.build" in paths:
        facts.append(("built by", "Meson", (Evidence(file="meson.build", line=1),)))
        text = text_of(files.get("meson_options.txt", b"") or files.get("meson.options", b""))
        names = [
            (name, kind) for name, kind in re.findall(r"option\s*\(\s*'(\w*tests?\w*)'\s*,\s*type\s*:\s*'(\w+)'", text)
        ]
        switches = [
            f"-D{name}={'true' if kind == 'boolean' else 'enabled'}"
            for name, kind in names
            if kind in ("boolean", "feature")
        ][:4]
        facts.append(
            (
                "tests",
                "meson test",
                (Evidence(file="meson.build", line=line_of(text_of(files.get("meson.build", b"")), "test(")),),
            )
        )
        build = f"ninja -C {place}"
        return Found(
            facts,
            (),
            (" ".join(["meson setup", place, *switches]), build),
            build,
            (f"meson test -C {place} --print-errorlogs",),
            {},
            ("meson", "ninja", *compilers),
        )
    return _make(paths, files, facts, compilers)


def _make(
    paths: frozenset[str],
    files: Mapping[str, bytes],
    facts: list[tuple[str, str, tuple[Evidence, ...]]],
    compilers: tuple[str, ...],
) -> Found:
    """configure and make, or make alone."""
    tools: tuple[str, ...] = ("make", *compilers)
    steps = list[str]()
    source = next((name for name in ("configure.ac", "configure.in") if name in paths), None)
    # A checkout's times are in no order, by which make would have autotools make again what was made already.
    order = "aclocal.m4 configure config.h.in config.hin Makefile.in"
    fresh = f"for name in {order}; do sleep 0.02; find . -name $name -exec touch {{}} +; done"
    if "configure" in paths:
        facts.append(("built by", "configure and make", (Evidence(file="configure"),)))
        steps += [fresh, "chmod +x configure; ./configure"]
        if source:
            steps[-1] += " || { autoreconf --force --install && ./configure; }"
    elif source:
        facts.append(("built by", "autotools", (Evidence(file=source),)))
        script = next(
            (name for name in ("autogen.sh", "bootstrap", "bootstrap.sh", "buildconf") if name in paths), None
        )
        again = "autoreconf --force --install"
        steps += [f"{{ NOCONFIGURE=1 sh ./{script} || {again}; }}" if script else again, "./configure"]
        tools += ("autoreconf",)
    else:
        name = next((one for one in ("GNUmakefile", "makefile", "Makefile") if one in paths), "Makefile")
        facts.append(("built by", "make", (Evidence(file=name),)))
    steps.append("make -j2")
    tests, why = list[str](), list[Evidence]()
    for name in ("Makefile.am", "Makefile.in", "GNUmakefile", "makefile", "Makefile"):
        text = text_of(files.get(name, b""))
        if re.search(r"^(?:check_PROGRAMS|TESTS|check-local)\b|^SUBDIRS\s*=.*\btests?\b", text, re.MULTILINE):
            tests.append("make check")
            why.append(
                Evidence(
                    file=name,
                    line=line_of(text, "check_PROGRAMS") or line_of(text, "TESTS") or line_of(text, "SUBDIRS"),
                )
            )
        for target in ("check", "test", "tests"):
            if at := re.search(rf"^{target}\s*:(?!=)", text, re.MULTILINE):
                tests.append(f"make {target}")
                why.append(Evidence(file=name, line=text.count("\n", 0, at.start()) + 1, words=at[0]))
    if not tests:
        tests = ["make check", "make test"]
    facts.append(("tests", " | ".join(dict.fromkeys(tests)), tuple(why[:3])))
    return Found(facts, (), tuple(steps), "make -j2", tuple(dict.fromkeys(tests))[:4], {}, tools)

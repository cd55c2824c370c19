"""What a run of a project's own tests came to, read from what its runner printed: counts, and what could not be told. Pure.

For people and for deciding whether a setup works; it is no verdict on a candidate, for whoever prints can print anything.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from runoff.sandbox.protocol import Execution, Value

Runner = Literal[
    "pytest", "unittest", "mocha", "jest", "vitest", "tap", "ava", "node", "jasmine",
    "go", "cargo", "ctest", "automake", "meson", "exit code",
]  # fmt: skip


class Tally(Value):
    """Counts of tests; those of a runner that is not known are the whole command, one test, by its exit code."""

    runner: Runner = "exit code"
    passed: int = 0
    failed: int = 0
    """Errors too."""
    skipped: int = 0
    untold: tuple[str, ...] = ()
    """Of the failed, those that could not reach a server or the network: could not tell. No more than 50 names."""
    untold_count: int = 0
    exit_code: int | None = None
    ended: str = "finished"
    """`finished`, or how the command ended otherwise: `timed out`, `killed`."""
    reasons: tuple[str, ...] = ()
    """What the failed ones say, as far as the runner says it on a line, the most frequent first: `3× KeyError: 'x'`."""
    said: str = ""
    """The last lines that it printed, where nothing passed or something failed."""

    @property
    def works(self) -> bool:
        """The test command runs and some tests pass."""
        return self.passed > 0

    def __str__(self) -> str:
        if self.ended != "finished" and not self.passed:
            return f"the tests did not come to an end: {self.ended}"
        if self.runner == "exit code":
            return f"the test command ends with exit code {self.exit_code}"
        counts = [f"{self.passed} passed", f"{self.failed} failed" if self.failed else ""]
        counts += [f"{self.skipped} skipped" if self.skipped else ""]
        counts += [f"{self.untold_count} could not tell" if self.untold_count else ""]
        ended = f"; {self.ended}" if self.ended != "finished" else ""
        return f"{', '.join(filter(None, counts))} ({self.runner}){ended}"


UNREACHABLE = re.compile(
    r"connection (?:to .{0,80}(?:failed|refused)|refused)|ConnectionRefused|ECONNREFUSED|could not connect to (?:server|\w+)|"
    r"Can't connect to (?:local )?(?:MySQL|server|\w+ server)|Name or service not known|Temporary failure in name resolution|"
    r"getaddrinfo (?:ENOTFOUND|EAI_AGAIN)|EAI_AGAIN|ENOTFOUND|Network is unreachable|ENETUNREACH|No route to host|nodename nor servname|"
    r"Failed to (?:resolve|establish a new connection)|NameResolutionError|no such host|ServerSelectionTimeoutError|"
    r"docker daemon|Cannot connect to (?:host|redis)|dial tcp|NewConnectionError|Max retries exceeded",
    re.IGNORECASE,
)
"""What a test says that needed a server or a network that is not there."""


def tally(done: Execution) -> Tally:
    """Read an execution of a test command."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.text)[-8_000_000:]
    found = next((counted for read in _READERS if (counted := read(text)) is not None), None)
    if found is None:
        fine = (
            done.exit_code == 0
            and bool(text.strip())
            and not re.search(r"no tests? (?:ran|found|were found|specified)|0 tests", text, re.I)
        )
        found = Tally(passed=int(fine), failed=int(done.exit_code not in (0, None)))
    names = _unreachable(text)
    failed = max(0, found.failed - len(names)) if found.runner != "exit code" else found.failed
    untold = min(len(names), found.failed) if found.runner != "exit code" else 0
    return found.model_copy(
        update={
            "failed": failed,
            "untold": tuple(names[:50]) if untold else (),
            "untold_count": untold,
            "exit_code": done.exit_code,
            "ended": done.outcome if done.outcome != "killed" else f"killed for {done.limit}",
            "reasons": _reasons(text) if failed else (),
            "said": _end(text) if not found.passed or found.failed or done.exit_code else "",
        }
    )


def _pytest(text: str) -> Tally | None:
    line = _last(
        r"^=*\s*((?:\d+ (?:passed|failed|skipped|errors?|deselected|xfailed|xpassed|warnings?|rerun|subtests passed)(?:, )?)+) in [\d.:]+",
        text,
    )
    if line is None:
        if _last(r"^(=+ no tests ran in )", text) or "collected 0 items" in text:
            return Tally(runner="pytest")
        return None
    count = {
        name.rstrip("s"): int(number)
        for number, name in re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)", line[1])
    }
    return Tally(
        runner="pytest",
        passed=count.get("passed", 0) + count.get("xpassed", 0),
        failed=count.get("failed", 0) + count.get("error", 0),
        skipped=count.get("skipped", 0) + count.get("xfailed", 0),
    )


def _unittest(text: str) -> Tally | None:
    ran = re.findall(r"^Ran (\d+) tests? in [\d.]+s", text, re.MULTILINE)
    if not ran:
        return None
    total, failed, skipped = sum(map(int, ran)), 0, 0
    for details in re.findall(r"^(?:FAILED|OK)\s*\(([^)\n]*)\)", text, re.MULTILINE):
        failed += sum(int(n) for n in re.findall(r"(?:failures|errors|unexpected successes)=(\d+)", details))
        skipped += sum(int(n) for n in re.findall(r"(?:skipped|expected failures)=(\d+)", details))
    return Tally(runner="unittest", passed=max(0, total - failed - skipped), failed=failed, skipped=skipped)


def _jest(text: str) -> Tally | None:
    line = _last(r"^\s*Tests:?\s+((?:\d+ (?:\w+)(?:,\s*| \| )?)+)(?:.*total)?", text)
    if line is None:
        return None
    count = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|todo|pending)", line[1])}
    if not count:
        return None
    runner: Runner = "vitest" if "|" in line[0] or re.search(r"^\s*Test Files\s", text, re.MULTILINE) else "jest"
    skipped = count.get("skipped", 0) + count.get("todo", 0) + count.get("pending", 0)
    return Tally(runner=runner, passed=count.get("passed", 0), failed=count.get("failed", 0), skipped=skipped)


def _mocha(text: str) -> Tally | None:
    passed = re.findall(r"^\s*(?:[✔✓]\s*)?(\d+) passing\b", text, re.MULTILINE)
    if not passed:
        return None
    failed, pending = (
        sum(map(int, re.findall(rf"^\s*(\d+) {word}\b", text, re.MULTILINE))) for word in ("failing", "pending")
    )
    return Tally(runner="mocha", passed=sum(map(int, passed)), failed=failed, skipped=pending)


def _ava(text: str) -> Tally | None:
    line = _last(r"^\s*(\d+) tests? passed\b", text)
    failed = _last(r"^\s*(\d+) tests? failed\b", text)
    if line is None and failed is None:
        return None
    return Tally(runner="ava", passed=int(line[1]) if line else 0, failed=int(failed[1]) if failed else 0)


def _jasmine(text: str) -> Tally | None:
    line = _last(r"^(\d+) specs?, (\d+) failures?(?:, (\d+) pending)?", text)
    if line is None:
        return None
    return Tally(
        runner="jasmine",
        passed=max(0, int(line[1]) - int(line[2]) - int(line[3] or 0)),
        failed=int(line[2]),
        skipped=int(line[3] or 0),
    )


def _tap(text: str) -> Tally | None:
    """The last plan's summary lines (`# pass 3`, `ℹ pass 3`), else the lines `ok 1 …` themselves."""
    sums = {
        name: int(number)
        for name, number in re.findall(r"^(?:#|ℹ)\s+(pass|fail|skipped|todo|skip)\s+(\d+)\s*$", text, re.MULTILINE)
    }
    if "pass" in sums:
        return Tally(
            runner="node" if "ℹ" in text or "# duration_ms" in text else "tap",
            passed=sum(int(number) for number in re.findall(r"^(?:#|ℹ)\s+pass\s+(\d+)\s*$", text, re.MULTILINE)),
            failed=sum(int(number) for number in re.findall(r"^(?:#|ℹ)\s+fail\s+(\d+)\s*$", text, re.MULTILINE)),
            skipped=sums.get("skipped", 0) + sums.get("skip", 0),
        )
    lines = re.findall(r"^\s*(not ok|ok)\b(?: \d+)?[^\n]*?(# SKIP|# TODO|# skip)?[^\n]*$", text, re.MULTILINE)
    if not re.search(r"^\s*1\.\.\d+", text, re.MULTILINE) or not lines:
        return None
    passed = sum(state == "ok" and not skip for state, skip in lines)
    return Tally(
        runner="tap",
        passed=passed,
        failed=sum(s == "not ok" and not k for s, k in lines),
        skipped=sum(bool(k) for _, k in lines),
    )


def _go(text: str) -> Tally | None:
    packages = re.findall(
        r"^(ok|FAIL|---)\s+(\S+)[ \t]+(?:\(cached\)|[\d.]+s|\[build failed\]|\[setup failed\])", text, re.MULTILINE
    )
    tests = re.findall(r"^\s*--- (PASS|FAIL|SKIP): ", text, re.MULTILINE)
    if not packages and not (tests and "\nPASS" in text):
        return None
    if any(state == "PASS" for state in tests):
        return Tally(runner="go", passed=tests.count("PASS"), failed=tests.count("FAIL"), skipped=tests.count("SKIP"))
    states = [state for state, _ in packages]
    return Tally(runner="go", passed=states.count("ok"), failed=states.count("FAIL"))


def _cargo(text: str) -> Tally | None:
    lines = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", text, re.MULTILINE)
    if not lines:
        return None
    return Tally(
        runner="cargo",
        passed=sum(int(p) for p, _, _ in lines),
        failed=sum(int(f) for _, f, _ in lines),
        skipped=sum(int(i) for *_, i in lines),
    )


def _ctest(text: str) -> Tally | None:
    line = _last(r"^\d+% tests passed, (\d+) tests? failed out of (\d+)", text)
    if line is None:
        return None
    return Tally(runner="ctest", passed=int(line[2]) - int(line[1]), failed=int(line[1]))


def _automake(text: str) -> Tally | None:
    names = ("PASS", "FAIL", "ERROR", "SKIP", "XFAIL", "XPASS")
    count = {name: sum(map(int, re.findall(rf"^# {name}:\s+(\d+)", text, re.MULTILINE))) for name in names}
    if not re.search(r"^# TOTAL:\s+\d+", text, re.MULTILINE):
        lines = re.findall(r"^(PASS|FAIL|SKIP|ERROR|XFAIL): \S", text, re.MULTILINE)
        if not lines:
            return None
        count = {name: lines.count(name) for name in names}
    return Tally(
        runner="automake",
        passed=count["PASS"],
        failed=count["FAIL"] + count["ERROR"] + count["XPASS"],
        skipped=count["SKIP"] + count["XFAIL"],
    )


def _meson(text: str) -> Tally | None:
    count = dict(re.findall(r"^(Ok|Expected Fail|Fail|Unexpected Pass|Skipped|Timeout):\s+(\d+)", text, re.MULTILINE))
    if not {"Ok", "Fail"} <= count.keys():
        return None
    return Tally(
        runner="meson",
        passed=int(count["Ok"]),
        failed=int(count["Fail"]) + int(count.get("Timeout", 0)),
        skipped=int(count.get("Skipped", 0)),
    )


_READERS = (_pytest, _cargo, _ctest, _meson, _jest, _mocha, _ava, _jasmine, _go, _unittest, _automake, _tap)


def _unreachable(text: str) -> list[str]:
    """Tests that failed because they could not connect, by pytest's short summary, or by the blocks that others print."""
    names = list[str]()
    for name, why in re.findall(r"^(?:FAILED|ERROR) (\S+) - (.*)$", text, re.MULTILINE):
        if UNREACHABLE.search(why):
            names.append(name[:200])
    if not names:
        for name, block in re.findall(
            r"^(?:ERROR|FAIL): (\S+[^\n]*)\n((?:(?!^(?:ERROR|FAIL|=====)).*\n){1,80})", text, re.MULTILINE
        ):
            if UNREACHABLE.search(block):
                names.append(name[:200])
        for name, block in re.findall(r"^\s*--- FAIL: (\S+)[^\n]*\n((?:\s+[^\n]*\n){1,30})", text, re.MULTILINE):
            if UNREACHABLE.search(block):
                names.append(name[:200])
    return list(dict.fromkeys(names))


def _reasons(text: str, most: int = 4) -> tuple[str, ...]:
    lines = re.findall(r"^(?:FAILED|ERROR) \S+ - (.+)$", text, re.MULTILINE) or re.findall(
        r"^(?:E  +)?(\w*(?:Error|Exception|Failure)\b: .+)$", text, re.MULTILINE
    )
    lines = lines or re.findall(r"^.*(?:\bFAIL(?:ED)?\b|\berror:).*$", text, re.MULTILINE)
    counts = Counter(" ".join(line.split())[:140] for line in lines if not UNREACHABLE.search(line))
    return tuple(f"{number}× {line}" if number > 1 else line for line, number in counts.most_common(most))


def _last(pattern: str, text: str) -> re.Match[str] | None:
    return next(reversed(list(re.finditer(pattern, text, re.MULTILINE))), None)


def _end(text: str, lines: int = 12, limit: int = 1500) -> str:
    kept = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    return "\n".join(kept[-lines:])[-limit:]

"""The conformance suite catches backends that are broken in one way each: the real one, with a fault put around it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runoff.sandbox import conformance
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.conformance import case as deadlines
from runoff.sandbox.protocol import Applied, Base, Diff, Execution, Held, Limits, Refused, State


class Whole(Bubblewrap):
    """The real backend, which faults are put around: everything that is run goes through `begin` and `end`."""

    def begin(self, call: dict[str, Any]) -> None: ...

    def end(self, call: dict[str, Any], done: Execution) -> Execution:
        return done

    async def execute(self, state: State, argv: Sequence[str], limits: Limits = Limits(), **how: Any) -> Execution:
        call = {"state": state, "argv": list(argv), "limits": limits} | how
        self.begin(call)
        asked = dict(call)
        return self.end(
            call, await super().execute(asked.pop("state"), asked.pop("argv"), asked.pop("limits"), **asked)
        )

    def around(self, call: dict[str, Any], script: str) -> None:
        """Run the command as "$@" of a script, its exit code kept as $code."""
        if call["argv"] != ["true"]:
            call["argv"] = ["sh", "-c", script, "sh", *call["argv"]]


def changed(**fields: Callable[[Execution], Any]) -> type[Whole]:
    """A backend that reports some fields of an execution wrongly."""

    class Changed(Whole):
        def end(self, call: dict[str, Any], done: Execution) -> Execution:
            return done.model_copy(update={name: change(done) for name, change in fields.items()})

    return Changed


def surrounded(script: str) -> type[Whole]:
    class Surrounded(Whole):
        def begin(self, call: dict[str, Any]) -> None:
            self.around(call, script)

    return Surrounded


def asked(**change: Callable[[Any], Any]) -> type[Whole]:
    """A backend that passes on something else than what it was asked."""

    class Asked(Whole):
        def begin(self, call: dict[str, Any]) -> None:
            call |= {name: put(call.get(name)) for name, put in change.items()}

    return Asked


class OneLiveContainer(Whole):
    """Every state is whatever the last execution left."""

    latest: State | None = None

    def begin(self, call: dict[str, Any]) -> None:
        call["state"] = self.latest or call["state"]

    def end(self, call: dict[str, Any], done: Execution) -> Execution:
        self.latest = done.after or self.latest
        return done


class AlwaysFreezes(Whole):
    async def execute(self, state: State, argv: Sequence[str], limits: Limits = Limits(), **how: Any) -> Execution:
        return await super().execute(state, argv, limits, **(how | {"freeze": True}))


class KeepsOneCallInMind(Whole):
    """The command of the call that came last is run for all who wait."""

    async def execute(self, state: State, argv: Sequence[str], limits: Limits = Limits(), **how: Any) -> Execution:
        self.argv = argv
        await asyncio.sleep(0)
        return await super().execute(state, self.argv, limits, **how)


class DoesNotHearCancel(Whole):
    async def execute(self, state: State, argv: Sequence[str], limits: Limits = Limits(), **how: Any) -> Execution:
        return await asyncio.shield(super().execute(state, argv, limits, **how))


class ForgetsNames(Whole):
    def keep(self, name: str, state: State) -> None:
        self.kept = state

    def named(self, name: str) -> State | None:
        return None


class RunsTheBaseForWhatIsLost(Whole):
    def begin(self, call: dict[str, Any]) -> None:
        if self.find(call["state"].digest) is None:
            call["state"] = State(layers=call["state"].layers[1:])


class ReadsOnTheHost(Whole):
    """Resolves a link inside, and then opens what it found outside."""

    async def read(self, state: State, path: str, limit: int = 16 << 20) -> bytes:
        where = await super().execute(state, ["readlink", "-f", path], freeze=False)
        try:
            return Path(where.text.strip()).read_bytes()  # noqa: ASYNC240
        except OSError:
            return await super().read(state, path, limit)


class WritesByReplacing(Whole):
    """A file that is written loses its mode."""

    async def write(self, state: State, files: Mapping[str, bytes | None]) -> State:
        return await super().write(await super().write(state, dict.fromkeys(files)), files)


class DiffsOnlyWhatGitKnows(Whole):
    async def diff(self, state: State, since: State | None = None, at: str = "/testbed") -> Diff:
        done = await self.execute(
            state, ["git", "diff", "--binary", "HEAD"], Limits(output=1 << 20), cwd=at, freeze=False
        )
        return Diff(patch=done.stdout)


class AppliesWhatItCan(Whole):
    async def apply(self, state: State, patch: bytes, at: str = "/testbed", *, fuzzy: bool = False) -> Applied:
        try:
            return await super().apply(state, patch, at)
        except Refused:
            return Applied(state=state, how="exact")


class SaysNothing(Whole):
    """It cannot keep hard links together, and its table has no row that says so."""

    def holds(self) -> list[Held]:
        return []


class Hangs(Whole):
    async def execute(self, state: State, argv: Sequence[str], limits: Limits = Limits(), **how: Any) -> Execution:
        if "no-such-program" not in argv:
            return await super().execute(state, argv, limits, **how)
        try:
            await asyncio.sleep(300)
        finally:
            await asyncio.sleep(0.5)  # and takes its time when it is told to stop
        raise AssertionError


REMOVE_MARKS = (
    '"$@"; code=$?; python3 -c "import os\n'
    'for f in os.listdir():\n  for n in os.listxattr(f, follow_symlinks=False): os.removexattr(f, n)"; exit $code'
)
RESTORE = 'cp -a . /tmp/.before; "$@"; code=$?; cp -an /tmp/.before/. . ; rm -rf /tmp/.before; exit $code'
IF_TIMED_OUT = "timed out"

BROKEN: dict[str, tuple[str, type[Whole]]] = {
    "time-outs as exit code 124": (
        "the_time_limit_ends_what_ignores_signals_and_what_hides",
        changed(
            outcome=lambda done: "finished",
            exit_code=lambda done: 124 if done.outcome == IF_TIMED_OUT else done.exit_code,
        ),
    ),
    "exit code 137 as killed": (
        "exit_codes_are_the_commands_own",
        changed(
            outcome=lambda done: "killed" if done.exit_code == 137 else done.outcome,
            limit=lambda done: "memory" if done.exit_code == 137 else None,
            exit_code=lambda done: None if done.exit_code == 137 else done.exit_code,
        ),
    ),
    "exit codes as yes or no": (
        "exit_codes_are_the_commands_own",
        changed(exit_code=lambda done: int(done.exit_code != 0)),
    ),
    "processes that live on": ("nothing_started_in_the_background_lives_on", surrounded('sleep 300 & exec "$@"')),
    "one live container": ("using_a_state_twice_is_the_fork", OneLiveContainer),
    "decoded output": (
        "bytes_in_bytes_out",
        changed(stdout=lambda done: done.stdout.decode("utf-8", "replace").encode()),
    ),
    "output without its last newline": (
        "the_two_streams_are_apart",
        changed(stdout=lambda done: done.stdout.rstrip(b"\r\n")),
    ),
    "no standard error": ("the_two_streams_are_apart", changed(stderr=lambda done: b"")),
    "streams in one": (
        "the_two_streams_are_apart",
        changed(stdout=lambda done: done.stdout + done.stderr, stderr=lambda done: b""),
    ),
    "nothing counted as dropped": ("output_keeps_its_first_and_its_last_half", changed(dropped=lambda done: 0)),
    "an end that is cut away": (
        "output_keeps_its_first_and_its_last_half",
        changed(stdout=lambda done: done.stdout[:500] + bytes(len(done.stdout[500:]))),
    ),
    "no clock": ("seconds_are_those_of_the_command", changed(seconds=lambda done: 0.0)),
    "nothing kept after a time-out": (
        "the_time_limit_ends_what_ignores_signals_and_what_hides",
        changed(after=lambda done: None if done.outcome == IF_TIMED_OUT else done.after),
    ),
    "freeze ignored": ("without_freeze_nothing_is_kept", AlwaysFreezes),
    "names forgotten": ("names_last", ForgetsNames),
    "deleted files kept": ("a_directory_made_anew_is_empty", surrounded(RESTORE)),
    "modes lost": (
        "six_executions_keep_everything",
        surrounded('"$@"; code=$?; chmod -R u=rwX,go=rX . 2>/dev/null; exit $code'),
    ),
    "modes lost by writing": ("what_is_written_can_be_read", WritesByReplacing),
    "attributes lost": ("extended_attributes_stay", surrounded(REMOVE_MARKS)),
    "what it lacks not said": ("hard_links_of_earlier_executions", SaysNothing),
    "the host's environment": (
        "the_environment_is_what_was_given",
        asked(env=lambda env: {"RUNOFF_CONFORMANCE_KEY": os.environ.get("RUNOFF_CONFORMANCE_KEY", "")} | (env or {})),
    ),
    "the host's network": (
        "the_hosts_network_cannot_be_reached",
        partial(Bubblewrap, mode="rootless", without=frozenset({"network"})),
    ),
    "no standard input": ("standard_input_has_an_end_and_need_not_be_read", asked(stdin=lambda stdin: b"")),
    "limits not passed on": ("one_files_size_is_limited", asked(limits=lambda limits: Limits())),
    "calls that mix": ("executions_at_once_do_not_mix", KeepsOneCallInMind),
    "cancel not heard": ("cancelling_kills_and_leaves_nothing", DoesNotHearCancel),
    "a lost state made up": ("a_state_that_is_not_there_is_lost", RunsTheBaseForWhatIsLost),
    "reading on the host": ("a_link_leads_to_the_sandboxs_own_files", ReadsOnTheHost),
    "new files not in the diff": ("apply_does_what_diff_says", DiffsOnlyWhatGitKnows),
    "a patch applied in part": ("a_patch_that_does_not_fit_is_refused_in_gits_words", AppliesWhatItCan),
    "a call that hangs": ("exit_codes_are_the_commands_own", Hangs),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_backend_is_caught(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, backend = BROKEN[fault]
    if backend is Hangs:
        monkeypatch.setattr(deadlines, "DEADLINE", 2.0)

    async def caught() -> None:
        async with backend(tmp_path / "states") as sandbox:
            base = await sandbox.base(Base())
            with pytest.raises(AssertionError):
                await conformance.CASES[name](sandbox, base)

    asyncio.run(caught())


def report(*arguments: str, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runoff.sandbox.conformance", *arguments, "--directory", str(store)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_report_without_pytest(tmp_path: Path) -> None:
    done = report("bubblewrap", "--only", "names_last", "--only", "without_freeze_nothing_is_kept", store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bubblewrap-")
    assert "s  names_last\n" in done.stdout
    assert "\n2 of 2 passed in" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_the_report_cannot_begin_is_said_in_a_line(tmp_path: Path) -> None:
    for wrong in (["nothing-of-that-name"], ["bubblewrap", "--only", "no_such_case"]):
        done = report(*wrong, store=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert wrong[-1] in done.stderr
        assert "bubblewrap" in done.stderr or "names_last" in done.stderr
        assert done.stderr.count("\n") == 1

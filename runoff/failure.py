"""Errors as users see them: one plain line, what is wrong, where, what to do; and the exit code."""

from __future__ import annotations

import errno
import os
import traceback

USAGE, MISSING, INFRASTRUCTURE = 2, 3, 5


class ForTheUser(Exception):
    """An error whose message is for the user as it is, with the exit code that goes with it."""

    exit_code = INFRASTRUCTURE


def one_line(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error. With RUNOFF_TRACEBACK=1 an unexpected one shows where it comes from."""
    if said := foreseen(error):
        return said
    if os.environ.get("RUNOFF_TRACEBACK"):
        traceback.print_exception(error)
    return (
        f"a mistake in runoff: {type(error).__name__}: {plain(error)}; please report it with what RUNOFF_TRACEBACK=1 shows",
        INFRASTRUCTURE,
    )


def foreseen(error: Exception) -> tuple[str, int] | None:
    """The line and the exit code of an error that is for the user; None: it is a mistake of ours."""
    from runoff.agent.log import LogBroken, LogBusy
    from runoff.agent.protocol import ModelMisconfigured
    from runoff.datasets.protocol import BadDataset, DatasetMissing
    from runoff.instance import BadTarget
    from runoff.recipe import BadRecipe
    from runoff.run import BadRun
    from runoff.sandbox.protocol import NoRoom, SandboxError, SandboxUnavailable, StoreFull
    from runoff.selection.predictions import BadPredictions
    from runoff.selection.rankings import UnknownRanking

    text = plain(error)
    if isinstance(error, DatasetMissing):
        return text, MISSING
    if isinstance(error, BadDataset | BadTarget | BadRecipe | BadRun | BadPredictions | UnknownRanking | LogBusy):
        return text, USAGE
    if isinstance(error, ModelMisconfigured | ForTheUser):
        return text, error.exit_code
    if isinstance(error, SandboxUnavailable | NoRoom):
        return text, MISSING
    if isinstance(error, StoreFull):
        return f"{text}; free some space, or give another --states, and type the same command again", INFRASTRUCTURE
    if isinstance(error, LogBroken | SandboxError):
        return text, INFRASTRUCTURE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full ({error.filename or 'while writing'}); free some space and type the same command again",
            INFRASTRUCTURE,
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}", USAGE
    return None


def plain(error: Exception) -> str:
    from runoff.visible import shown

    return shown(" ".join(str(error).split()))

"""Edits a model answers with: made to the original files, or refused in words from which it can mend them.

    reply ──parse──► Answer.edits ──apply(changes, tree)──► {path: new contents, or None where it is deleted}
                          ▲
    old, new ──changes_between──► changes ──render──► text

`describe` tells the grammar to the model, `syntax_errors` looks at what came of it.
"""

from runoff.agent.edits.apply import EditProblem, apply, changes_between
from runoff.agent.edits.grammar import Answer, Change, Delete, Diff, Edit, File, Hunk, Pair, Rename, describe, render
from runoff.agent.edits.parse import parse
from runoff.agent.edits.syntax import syntax_errors

__all__ = [
    "Answer",
    "Change",
    "Delete",
    "Diff",
    "Edit",
    "EditProblem",
    "File",
    "Hunk",
    "Pair",
    "Rename",
    "apply",
    "changes_between",
    "describe",
    "parse",
    "render",
    "syntax_errors",
]

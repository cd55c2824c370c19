"""Release pairs that come with runoff: real bugs of released projects, each with a later release that has the fix.

<id>/pair.toml          which release has the bug, how it is installed and tested
<id>/issue.md           the statement: this and the release's source are all that solving sees
<id>/answer/check.*     the hidden check: exit code 0 only where all is fixed
<id>/answer/*.diff      a right patch and two that are wrong but plausible

Statements, checks and patches are our own words and code; of the projects nothing is here: their sources come from the
registries when they are needed. Only grading opens an answer, and what measures a choice among its patches.
"""

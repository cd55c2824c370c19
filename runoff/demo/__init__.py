"""Release pairs that come with runoff: real bugs of released projects, issue texts of our own, recorded answers, hidden checks.

<id>/pair.toml          which release has the bug, how it is installed and tested
<id>/issue.md           the statement: this and the release's source are all that solving sees
<id>/answer/check.py    the hidden check: only the grading process opens it
answers/<id>.jsonl      the model's answers, recorded
"""

"""What is said of a patch where it is published: it says what is on record, and nothing that a stranger wrote gets out of its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from runoff.github.address import IssueAddress
from runoff.github.description import Place, command, comment, describe, message, subject
from runoff.github.markdown import code, fenced, plain, prose, quoted
from runoff.github.submission import Submission, read
from runoff.selection.protocol import Selection
from tests.runoff.github.decided import SCRIPT, decided, repository

ADDRESS = IssueAddress(base="https://github.com", owner="o", repo="r", number=12)
PLACE = Place(base="a" * 40, commit="c" * 40, branch="runoff/issue-12", issue="#12")
HOSTILE = (
    "@team @o/admins fixes #3, closes o/r#4 and resolves GH-5, fixes https://github.com/o/r/issues/6\n"
    "```\n~~~~\n</details><script>alert(1)</script><img src=x onerror=y> ![i](https://evil.example/x.png) "
    "[click](javascript:x) www.evil.example me@evil.example <!-- x --> --> \u202e\u2066 \x1b[31m | a | b |\n"
    "# heading\n- [ ] task\n1. one\n> [!WARNING]\n<details>\n---\n===\n[^1]: note\n$$x$$ \u200b :tada:\n"
)
ours = re.compile(r"</?details>|</?summary>|</?code>|<!-- /?runoff[^>]*-->")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Submission:
    folder = tmp_path_factory.mktemp("run")
    place, commit = repository(folder / "project")
    return read(decided(folder / "out", place, commit, address=ADDRESS))


def tokens(text: str) -> Iterator[Any]:
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text):
        yield token
        yield from token.children or ()


def escaped(text: str) -> list[str]:
    """Everything in a published text that acts: HTML that is not ours, links, images, mentions, references, addresses."""
    found = list[str]()
    for token in tokens(text):
        if token.type in ("html_block", "html_inline"):
            found += (
                [token.content]
                if re.sub(r"\s+", "", ours.sub("", token.content)) and "<" in ours.sub("", token.content)
                else []
            )
        elif token.type in ("image", "link_open"):
            found.append(str(token.attrs))
        elif token.type == "inline":
            breaks = {"code_inline": "\0", "softbreak": "\n", "hardbreak": "\n"}
            words = "".join(breaks.get(child.type, child.content) for child in token.children or ())
            acts = r"@\w\S*|\b(?:GH-|\w*#)\d+|https?://\w\S*|www\.\S+|[\u202a-\u202e\u2066-\u2069\x1b]"
            found += [one for one in re.findall(acts, words, re.IGNORECASE) if one != "#12"]
        elif token.type == "fence":
            found += re.findall(r"[\u202a-\u202e\u2066-\u2069\x1b]", token.content)
    return found


def told(submission: Submission, text: str) -> Submission:
    """With a stranger's text wherever a stranger's text can stand."""
    whole = submission.model_dump(mode="json")
    proof, selection = whole["proof"], whole["selection"]
    whole |= {"title": text, "words": text, "why": f"chosen: {text}", "models": {"editor": text.replace("\n", " ")}}
    whole["instance"]["statement"] = text
    proof["of"] |= {"script": text, "test": text}
    proof["base"] |= {"output": text, "why": text}
    proof["patch"] |= {"output": text, "why": text}
    entry = selection["entries"][1]
    entry["candidate"]["patch"] = f"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+{text}\n"
    first = selection["entries"][0]["candidate"]
    first["patch"] = first["patch"].replace("numbers_.py", "a`b|@team.py")
    selection["table"]["repository"] = [text]
    selection["table"]["broken"] = {"editing-1": [text], "editing-2": []}
    selection["confidence"]["hangs_on"]["generated"] = {text: None}
    return Submission.model_validate(whole)


def test_it_says_what_was_run_on_which_commit_and_what_came(made: Submission) -> None:
    text = describe(made, PLACE)
    assert "Fixes #12." in text
    assert f"| base | `{'a' * 40}` | **not fixed** |" in text
    assert f"| this change | `{'c' * 40}` | **fixed** |" in text
    assert "```text\nmean([]): division by zero\n```" in text
    assert "```text\n[0, 2.0] expected [0, 2]\n```" in text
    assert f"```python\n{SCRIPT}```" in text
    assert "| `numbers_.py` | +1 −1 | 2 |" in text
    assert "in words that nobody has checked:\n\n> Dividing by the length fails" in text
    assert "No probability is claimed" in text
    assert "| `testing-2` | pass | fail |" in text, "what the runner-up does otherwise"
    assert "Nobody has reviewed it" in text
    assert "runoff solve https://github.com/o/r/issues/12" in text
    assert not escaped(text)


def test_without_a_reproduction_it_says_so_and_why_it_was_chosen(tmp_path: Path) -> None:
    place, commit = repository(tmp_path / "project")
    cells: dict[str, Any] = {"editing-1": "could not tell", "editing-2": "fail"}
    text = describe(read(decided(tmp_path / "out", place, commit, cells=cells)), PLACE)
    assert "**There is no reproduction**" in text
    assert "It is the first of the ranking; no run-off was held." in text
    assert "not fixed" not in text
    assert "No generated test shows" in message(read(tmp_path / "out"))


def test_a_calibrated_probability_is_stated_and_no_other(made: Submission) -> None:
    sure = made.selection.confidence
    assert sure
    update = {"confidence": sure.model_copy(update={"p": 0.82, "how": "calibrated on 120 issues"})}
    text = describe(made.model_copy(update={"selection": made.selection.model_copy(update=update)}), PLACE)
    assert "**0\\.82**" in text or "**0.82**" in text
    assert "calibrated on 120 issues" in text
    assert "No probability" not in text


def test_the_proof_of_the_patch_author_alone_is_called_weaker(made: Submission) -> None:
    assert made.proof
    assert made.proof.of.independent
    own = made.proof.model_copy(update={"of": made.proof.of.model_copy(update={"independent": False})})
    assert "weaker evidence" in describe(made.model_copy(update={"proof": own}), PLACE)


def test_characters_that_hide_in_the_patch_are_named(made: Submission) -> None:
    assert made.entry
    patch = made.entry.candidate.patch.replace(b"else 0", "else 0  # \u202e".encode())
    whole = made.model_dump(mode="json")
    whole["selection"]["entries"][0]["candidate"]["patch"] = patch.decode()
    assert "hide or reorder text**: `⟨U+202E⟩`" in describe(Submission.model_validate(whole), PLACE)


def test_a_strangers_text_mentions_nobody_closes_nothing_and_stays_in_its_place(made: Submission) -> None:
    evil = told(made, HOSTILE)
    link = "https://github.com/o/r/pull/7"
    for text in (describe(evil, PLACE), comment(evil, link=link).replace(link, "here"), comment(evil)):
        assert not escaped(text)
        headings = [token for token in tokens(text) if token.type == "heading_open"]
        assert len(headings) in (0, 6), "no heading of theirs"
    for line in (subject(evil), message(evil)):
        assert not re.search(r"@\w|#\d|GH-\d|://g|\u202e", line, re.IGNORECASE)
    assert "\n" not in subject(evil)


hostile = st.text(
    st.sampled_from("@#`~<>[]()!|&*_-=+.:/\\ \n\r\tab1\u202e\u200b$^{}'\"") | st.characters(), max_size=60
)


@given(hostile, hostile, hostile)
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_written_stays_in_its_place(one: str, two: str, three: str) -> None:
    table = f"| a | b |\n|---|---|\n| {code(three)} | {prose(one)} |"
    text = f"{quoted(one)}\n\nend\n\n{fenced(two, 'text')}\n\nend\n\n{table}\n\nx {prose(two)} end\n"
    kinds = [token.type for token in tokens(text)]
    assert not escaped(text)
    assert kinds.count("fence") == 1
    assert kinds.count("td_open") == 2
    assert "heading_open" not in kinds
    assert "bullet_list_open" not in kinds
    assert "ordered_list_open" not in kinds
    assert kinds.count("blockquote_open") <= 1
    assert "\n" not in plain(three)


def test_a_script_can_be_copied_out_of_its_fence_as_it_was() -> None:
    script = "@decorated\ndef f():\n    '''```\n    ````'''\n    return 1  # fixes #3\n"
    fence = next(token for token in tokens(fenced(script, "python")) if token.type == "fence")
    assert fence.content == script


def test_what_is_long_is_cut_and_said_to_be(made: Submission) -> None:
    text = describe(told(made, "x" * 400_000), PLACE)
    assert len(text) <= 60_000
    assert "characters left out" in text
    assert not escaped(text)


def test_the_command_names_no_server_and_no_path(made: Submission) -> None:
    models = {"editor": "openai/local@http://10.0.0.5:8000/v1?effort=high", "verifier": "recorded:/home/me/answers"}
    text = command(made.model_copy(update={"models": models}))
    assert "10.0.0.5" not in text
    assert "/home/me" not in text
    assert "openai/local" in text


def test_an_abstention_proposes_nothing_and_shows_the_reproduction(tmp_path: Path) -> None:
    place, commit = repository(tmp_path / "project")
    submission = read(decided(tmp_path / "out", place, commit, address=ADDRESS, status="abstained"))
    text = comment(submission)
    assert "proposes **no change**: it is not sure enough of any" in text
    assert "A test that reproduces the issue" in text
    assert "diff --git" not in text
    assert not submission.submitted
    assert isinstance(submission.selection, Selection)

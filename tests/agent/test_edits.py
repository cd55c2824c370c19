"""Edits: what a model writes is made exactly, or refused in words from which it can mend it. Nothing in between."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runoff.agent.edits import (
    Change,
    Delete,
    Diff,
    Edit,
    EditProblem,
    File,
    Hunk,
    Pair,
    Rename,
    apply,
    changes_between,
    describe,
    parse,
    render,
    syntax_errors,
)
from runoff.agent.edits.grammar import TAGS

often = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pair(search: str, replace: str) -> Pair:
    return Pair(*(tuple(text.split("\n")) if text else () for text in (search, replace)))


def edit(search: str, replace: str, path: str = "a.py") -> Edit:
    return Edit(path, (pair(search, replace),))


def edited(old: bytes, search: str, replace: str) -> bytes | None:
    return apply([edit(search, replace)], {"a.py": old}.get)["a.py"]


def refused(changes: Sequence[Change], tree: dict[str, bytes], *, others: dict[str, bytes] = {}) -> tuple[str, ...]:
    with pytest.raises(EditProblem) as raised:
        apply(changes, tree.get, paths=list(tree), others=others)
    for problem in raised.value.problems:
        problem.encode()  # it is sent to a provider
    return raised.value.problems


def told(old: bytes, search: str) -> str:
    (problem,) = refused([edit(search, "new")], {"a.py": old})
    return problem


# The grammar


def test_the_description_is_itself_an_answer_so_it_cannot_promise_what_the_parser_refuses() -> None:
    answer = parse(describe())
    assert answer.problems == ()
    assert [type(change) for change in answer.edits] == [Edit, File, Delete, Rename]
    assert len(answer.tests) == 1
    answer = parse(describe(diffs=True))
    assert answer.problems == ()
    assert [type(change) for change in answer.edits] == [Diff, File, Delete, Rename]
    assert parse(describe("done")).done
    assert parse(describe("choose")).choose == "B"


def test_the_description_shows_and_names_every_tag_and_attribute() -> None:
    said = describe()
    assert "<patch" not in said
    assert "<edit" not in describe(diffs=True)
    assert "<search" not in describe(diffs=True)
    said += describe("patch", diffs=True)
    for name, tag in TAGS.items():
        assert f"<{name}" in said
        for attribute in tag.needs:
            assert f'{attribute}="' in said
        for attribute, values in tag.may.items():
            assert all(f'{attribute}="{value}"' in said for value in values)


def test_a_prompt_can_describe_some_blocks_only() -> None:
    said = describe("test", "done")
    assert "<test>" in said
    assert "<done/>" in said
    assert "<edit" not in said
    assert "<choose" not in said
    with pytest.raises(ValueError, match="search"):
        describe("search")


REPLY = """\
I will use <edit> blocks, then say <done/>.

```xml
<edit path="a.py">
<search>
x
</search>
<replace>
y
</replace>
</edit>
```

And <test> is not needed.
"""


def test_prose_and_fences_around_blocks_and_tags_in_mid_line_are_not_taken_for_anything() -> None:
    answer = parse(REPLY)
    assert answer.edits == (edit("x", "y"),)
    assert answer.problems == answer.notices == ()


def test_fences_and_blank_lines_between_the_tags_of_an_edit_are_no_text() -> None:
    reply = "<edit path='a.py'>\n```\n<search>\nx\n</search>\n```\n\n```python\n<replace>\ny\n</replace>\n```\n</edit>"
    assert parse(reply).edits == (edit("x", "y"),)


def test_white_space_around_a_tag_line_is_forgiven() -> None:
    reply = (
        '  <edit  path="a.py" >\t\n <search>\r\n  x\n\t</search>\n<replace>  \n  y\n</replace >\n</edit>\r\n  <done/>'
    )
    assert parse(reply).edits == (edit("  x", "  y"),)


def test_a_fence_inside_search_is_text_for_it_may_be_a_markdown_file() -> None:
    answer = parse("<file path='README.md'>\n```\nx\n```\n</file>")
    assert answer.edits == (File("README.md", ("```", "x", "```")),)


@pytest.mark.parametrize(
    ("body", "script"),
    [
        ("```python\nassert x\n```", "assert x\n"),
        ("```\n```", ""),
        ("```python\nassert x", "```python\nassert x\n"),
        ("assert x\n```", "assert x\n```\n"),
        ("s = '''\n```\n'''", "s = '''\n```\n'''\n"),
        ("```", "```\n"),
    ],
)
def test_a_test_loses_its_fences_only_if_it_is_all_within_them(body: str, script: str) -> None:
    assert parse(f"<test>\n{body}\n</test>").tests == (script,)


def test_an_underline_of_rst_is_text_and_no_divider() -> None:
    doc = "Title\n======\n\n=======\n<<<<<<< SEARCH\n>>>>>>> REPLACE\n-----"
    answer = parse(f'<edit path="a.py">\n<search>\n{doc}\n</search>\n<replace>\n{doc}\n=====\n</replace>\n</edit>')
    assert answer.edits == (edit(doc, f"{doc}\n====="),)


def test_a_labelled_tag_quotes_our_own_tags_as_text() -> None:
    text = "<search>\n</search>\n<replace:B>\n</edit>\n<done/>\n</replace>"
    reply = f"<edit path='a.py'>\n<search:A>\n{text}\n</search:A>\n<replace:x1>\n</replace>\n</replace:x1>\n</edit>"
    assert parse(reply).edits == (edit(text, "</replace>"),)
    assert parse("<file:A path='t'>\n</file>\n<test>\n</file:A>").edits == (File("t", ("</file>", "<test>")),)
    assert parse("<test:A>\n</test>\n<done/>\n</test:A>").tests == ("</test>\n<done/>\n",)


def test_thoughts_are_not_answers() -> None:
    assert parse("<think>\n<edit path='a.py'>\n<done/>\n</think>\n<done/>").done
    assert parse("<think>Shall I say\n<test>\n?</think><done/>").done
    assert not parse("<think>\n<done/>").done
    assert "never closed" in parse("<think>\n<done/>").problems[0]


def test_thoughts_whose_opening_tag_the_server_kept_are_not_answers_either() -> None:
    answer = parse("Perhaps\n<delete path='a.py'/>\nNo.\n</think>\n<delete path='b.py'/>")
    assert answer.edits == (Delete("b.py"),)
    assert "Line 4" in answer.notices[0]
    assert parse("<file path='t'>\n</think>\n<think>\n</file>").edits == (File("t", ("</think>", "<think>")),)


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("<edit path='a.py'>\n<search>\nx\n</search>\n<replace>\ny\n", ["Line 5", "<replace>", "never closed"]),
        ("<edit path='a.py'>\n<search>\nx\n</search>\n<replace>\ny\n</replace>", ["Line 1", "<edit>", "never closed"]),
        (
            "<edit path='a.py'>\n<search>\nx\n<replace>\ny\n</replace>\n</edit>",
            ["Line 2", "<search>", "<replace> of line 4"],
        ),
        ("<test>\nassert x", ["Line 1", "<test>", "</test>"]),
        ("<file:A path='a.py'>\nx\n</file>", ["Line 1", "<file:A>", "</file:A> is missing"]),
        ("<test>\n<edit path='b'>\n</test>", ["Line 1", "<edit> of line 2", "<test:A>"]),
        ("<edit path='a.py'>\n<test>\nx\n</test>", ["Line 1", "<edit>", "<test> of line 2"]),
    ],
)
def test_a_tag_not_closed_is_named_with_its_line_and_no_part_of_the_edit_is_made(reply: str, named: list[str]) -> None:
    answer = parse(f"{reply}\n")
    assert answer.edits == ()
    assert len(answer.problems) == 1
    assert all(name in answer.problems[0] for name in named), answer.problems
    good = "<edit path='b.py'>\n<search>\nx\n</search>\n<replace>\ny\n</replace>\n</edit>\n"
    assert parse(good + reply).edits == ()
    assert parse(good + reply).problems


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("<edit file='a.py'>\n<search>\n</search>\n</edit>", '<edit path="…">'),
        ("<edit path=a.py>\n</edit>", '<edit path="…">'),
        ("<file path='a' path='b'>\n</file>", '<file path="…"'),
        ("<file path='a' eol='cr'>\n</file>", 'eol="crlf"|"lf"'),
        ("<delete path='a'>", '<delete path="…"/>'),
        ("<rename from='a'/>", '<rename from="…" to="…"/>'),
        ("<done>", "<done/>"),
        ("</edit>", "</edit> closes nothing"),
        ("<search>\nx\n</search>", "outside of an <edit>"),
        ("<edit path='a.py'>\n</edit>", "holds no <search>"),
        ("<edit path='a.py'>\n<replace>\nx\n</replace>\n</edit>", "no <search> before"),
        ("<edit path='a.py'>\n<search>\nx\n</search>\n</edit>", "no <replace> after"),
        (
            "<edit path='a.py'>\n<search>\nx\n</search>\n=====\n<replace>\nx\n</replace>\n</edit>",
            "`=====` stands in an",
        ),
        ("<edit path='a.py'>\n<search>x</search>\n<replace>y</replace>\n</edit>", "`<search>x</search>` stands in an"),
        ("I am finished.", "no block"),
        ("", "no block"),
        ("<test>\na\n</test>\n<test>\nb\n</test>", "2 <test> blocks"),
        ("<choose id='A'/>\n<choose id='B'/>", "More than one candidate"),
    ],
)
def test_what_is_not_quite_the_grammar_is_answered_with_how_to_write_it(reply: str, named: str) -> None:
    answer = parse(reply)
    assert len(answer.problems) == 1, answer.problems
    assert named in answer.problems[0]
    assert not answer.done


def test_a_block_that_shares_its_line_is_not_silently_lost() -> None:
    answer = parse("<delete path='a.py'/> <delete path='b.py'/>\n<delete path='c.py'/>")
    assert answer.edits == (Delete("c.py"),)
    assert "Line 1: <delete>" in answer.notices[0]


def test_all_blocks_of_a_reply_are_one_edit() -> None:
    one, two = edit("x", "y"), edit("z", "", "b.py")
    changes = (one, File("n.py", ("n",)), Delete("d.py"), two, Rename("r.py", "s.py"))
    answer = parse("\n\nand then\n\n".join(render([change]) for change in changes))
    assert answer.edits == changes


@pytest.mark.parametrize(
    "beside", ["<test>\nx\n</test>", "<delete path='a.py'/>", "<choose id='A'/>", "<edit path='a'>"]
)
def test_done_beside_anything_else_is_not_done(beside: str) -> None:
    answer = parse(f"{beside}\n<done/>")
    assert not answer.done
    assert any("done is taken only alone" in notice for notice in answer.notices)


def test_two_edits_and_done_keep_the_edits() -> None:
    answer = parse(render([edit("x", "y"), edit("z", "", "b.py")]) + "<done/>\n")
    assert len(answer.edits) == 2
    assert not answer.done


def test_done_and_choose_alone_count() -> None:
    assert parse("All is well.\n<done />\n").done
    assert parse("<done/>\n<done/>").done
    answer = parse("The second.\n<choose id='B'/>\n")
    assert answer.choose == "B"
    assert not answer.done
    assert parse("<test>\nx\n</test>\n<choose id='B'/>").choose is None


def test_a_reply_in_circles_is_read_at_once_and_answered_briefly() -> None:
    for line in ("<edit path='a'>", "<search>", "<test>", "</done>", "<edit>"):
        started = time.process_time()
        answer = parse(f"{line}\n" * 2000)
        assert time.process_time() - started < 2
        assert 0 < len(answer.problems) <= 11


# Matching


def test_only_whole_lines_match() -> None:
    assert edited(b"ab\nb\n", "b", "c") == b"ab\nc\n"
    assert "does not stand in the file" in told(b"abc\n", "b")


def test_the_last_line_can_be_edited_and_keeps_its_missing_newline() -> None:
    assert edited(b"a\nb", "b", "c") == b"a\nc"
    assert edited(b"a\nb", "b", "c\nd") == b"a\nc\nd"
    assert edited(b"a\nb", "a\nb", "c") == b"c"
    assert edited(b"a\nb", "b", "b\nc") == b"a\nb\nc"
    assert edited(b"a\nb\n", "b", "c") == b"a\nc\n"
    assert edited(b"a\r\nb", "b", "c\nd") == b"a\r\nc\r\nd"


def test_an_empty_line_at_the_end_is_not_lost_with_the_missing_newline() -> None:
    assert edited(b"a\nb", "a\nb", "a\n") == b"a\n\n"
    assert patched(b"a\n\nb", "@@", " a", " ", "-b") == b"a\n\n"


def test_one_line_files_can_be_edited() -> None:
    assert edited(b"a", "a", "b") == b"b"
    assert edited(b"a\n", "a", "b") == b"b\n"
    assert edited(b"a", "a", "b\nc") == b"b\nc"


def test_an_empty_replace_deletes_the_lines() -> None:
    assert edited(b"a\nb\nc\n", "b", "") == b"a\nc\n"
    assert edited(b"a\nb", "b", "") == b"a\n"
    assert edited(b"a", "a", "") == b""


def test_an_empty_search_means_an_empty_file_and_nothing_else() -> None:
    assert edited(b"", "", "a\nb") == b"a\nb\n"
    assert "the search is empty" in told(b"a\n", "")


def test_crlf_files_are_found_by_lf_text_and_stay_crlf() -> None:
    assert edited(b"a\r\nb\r\nc\r\n", "a\nb", "x\ny\nz") == b"x\r\ny\r\nz\r\nc\r\n"


def test_carriage_returns_that_the_model_types_out_are_not_doubled() -> None:
    assert edited(b"a\r\nb\r\nc\r\n", "a\r\nb\r", "x\r\ny\r") == b"x\r\ny\r\nc\r\n"


def test_mixed_line_endings_stay_where_they_were() -> None:
    assert edited(b"a\r\nb\nc\r\nd\n", "b", "x") == b"a\r\nx\nc\r\nd\n"
    assert edited(b"a\r\nb\nc\r\nd\n", "a\nb\nc", "a\nb\nx\ny") == b"a\r\nb\nx\r\ny\r\nd\n"
    assert edited(b"a\r\nb\nc\r\n", "a\nb\nc", "a\nnew\nb\nc") == b"a\r\nnew\r\nb\nc\r\n"


def test_a_carriage_return_that_ends_no_line_is_text() -> None:
    assert edited(b"a\rb\nc\n", "c", "d") == b"a\rb\nd\n"
    assert edited(b"a\rb\nc\n", "a\rb", "d") == b"d\nc\n"
    assert edited(b"a\nb\r", "b\r", "c\r") == b"a\nc\r"


def test_form_feeds_and_unicode_line_separators_end_no_line() -> None:
    old = "a\x0bb\u2028c\x0cd\x85e\nf\n".encode()
    assert edited(old, "f", "g") == old[:-2] + b"g\n"
    assert edited(old, "a\x0bb\u2028c\x0cd\x85e", "x") == b"x\nf\n"


def test_tabs_are_exact() -> None:
    assert edited(b"\ta\n", "\ta", "\t\tb") == b"\t\tb\n"


def test_bytes_that_are_not_utf8_stay_as_they_are() -> None:
    assert edited(b"\xff\xfe caf\xe9\nb\n", "b", "c") == b"\xff\xfe caf\xe9\nc\n"
    problem = told(b"x = 1\nname = 'caf\xe9'\n", "x = 1\nname = 'caf\ufffd'")
    assert "line 2 holds bytes that are not UTF-8" in problem


def test_a_byte_order_mark_need_not_be_quoted_and_is_kept() -> None:
    assert edited(b"\xef\xbb\xbfimport a\nb\n", "import a", "import c") == b"\xef\xbb\xbfimport c\nb\n"


def test_half_a_character_is_refused_and_nothing_crashes() -> None:
    (problem,) = refused([edit("a", "\ud800")], {"a.py": b"a\n"})
    assert "half a character" in problem
    assert "half a character" in refused([File("b.py", ("\ud800",))], {})[0]
    assert "not a path" in refused([File("\ud800", ())], {})[0]


# What is said of lines that are not found


def test_several_places_are_all_named() -> None:
    problem = told(b"a\nx\na\nx\na\n", "a")
    assert "3 places, lines 1, 3 and 5" in problem
    assert "add lines around" in problem


def test_a_tab_typed_as_spaces_is_named() -> None:
    problem = told(b"def f():\n\treturn 1\n", "def f():\n    return 1")
    assert "line 2 has a tab where your text has 4 spaces" in problem
    assert "     2|\treturn 1" in problem


def test_trailing_blanks_are_named_on_either_side() -> None:
    assert "line 1 ends in 2 spaces that your text lacks" in told(b"a = 1  \nb\n", "a = 1\nb")
    assert "your text has a space at the end of a line that line 1 lacks" in told(b"a = 1\nb\n", "a = 1 \nb")
    assert "your text has a carriage return at the end" in told(b"a = 1\nb\n", "a = 1\r\nb")


def test_spaces_within_a_line_are_named() -> None:
    problem = told(b"x = f(a, b)\n", "x = f(a,b)")
    assert "line 1 has a space where your text has nothing after `x = f(a,`" in problem
    assert "a no-break space where your text has a space" in told("a\xa0= 1\n".encode(), "a = 1")


def test_blank_lines_too_many_or_missing_are_named() -> None:
    assert "blank lines between" in told(b"a = 1\n\nb = 2\n", "a = 1\nb = 2")
    assert "blank lines before or after" in told(b"a = 1\nb = 2\nc = 3\n", "\na = 1\nb = 2\n")
    assert "It is blank" in told(b"a\n\nb\n", "\n")


def test_uniformly_wrong_indentation_is_told_and_never_mended_in_silence() -> None:
    old = b"class A:\n    def f(self):\n        return 1\n"
    problem = told(old, "def f(self):\n    return 1")
    assert "Every line has 4 spaces more before it in the file than in your text" in problem
    assert "Every line has 4 spaces more before it in your text" in told(b"a:\n  b\n", "    a:\n      b")


def test_the_nearest_region_is_shown_with_its_line_numbers_and_the_first_difference() -> None:
    old = "".join(f"def f{n}(x):\n    total = x + {n}\n    return total\n\n" for n in range(30)).encode()
    problem = told(old, "def f17(x):\n    total = x + 18\n    return total")
    assert "line 70 is `    total = x + 17`, your text has `    total = x + 18`" in problem
    assert "    69|def f17(x):" in problem


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("first = 1\nsecond = 2\nfourth = 4", "your text lacks line 3: `third = 3`"),
        ("first = 1\nextra = 0\nsecond = 2\nthird = 3", "`extra = 0` before line 2"),
        ("thirt = 3", "line 3 is `third = 3`"),
        ("unlike(anything, here)", "Nothing in the file (4 lines) is like it"),
    ],
)
def test_lines_missing_added_and_misspelled_are_told(search: str, said: str) -> None:
    assert said in told(b"first = 1\nsecond = 2\nthird = 3\nfourth = 4\n", search)


def test_a_long_region_is_shown_around_its_first_difference() -> None:
    lines = [f"value_{n} = {n}" for n in range(200)]
    problem = told("\n".join(lines).encode(), "\n".join([*lines[:150], "value_150 = 0", *lines[151:]]))
    assert "line 151 is `value_150 = 150`" in problem
    assert "   151|value_150 = 150" in problem
    assert problem.count("\n") <= 31


def test_lines_of_another_file_that_was_shown_are_traced_to_it() -> None:
    others = {"a.py": b"x\n", "b.py": b"one\ntwo\n"}
    (problem,) = refused([edit("two", "three")], {"a.py": b"x\n"}, others=others)
    assert "not stand in this file, but in b.py (line 2)" in problem
    many = {f"m{n}.py": b"two\n" for n in range(50)}
    assert "47 more files" in refused([edit("two", "three")], {"a.py": b"x\n"}, others=many)[0]


def test_what_is_shown_of_a_file_can_be_sent_and_printed() -> None:
    problem = told(b"caf\xe9 = '\x1b[31m'\nb = 2\n" + b"x" * 5000 + b"\n", "b = 3\nxx")
    assert "caf\ufffd = '\\x1b[31m'" in problem
    assert len(problem) < 1500


def test_feedback_on_a_file_twenty_times_as_long_takes_about_twenty_times_as_long() -> None:
    """A ratio within one run: a file of 20,000 lines must not keep a trajectory waiting for minutes."""

    def seconds(lines: int, case: str) -> float:
        words = [f"    self.field_{n % 700} = compute(value_{n % 97}, {n % 13})" for n in range(lines)]
        middle = words[lines // 2 - 20 : lines // 2 + 20]
        contents, search = {
            "misspelled": (words, "\n".join(middle).replace("compute(value_7,", "computed(value_7,")),
            "indented": (words, "\n".join(line[2:] for line in middle)),
            "foreign": (words, "zzz qqq www\n" * 40),
            "typing": (words, "selffield5computevalue56"),
            "all alike": (["x = 1"] * lines, "x = 1\n" * (lines // 4) + "x = 2"),
            "all of it": (words, "\n".join(words) + "\nmore"),
        }[case]
        started = time.process_time()
        told("\n".join(contents).encode(), search)
        return time.process_time() - started

    for case in ("misspelled", "indented", "foreign", "typing", "all alike", "all of it"):
        small = min(seconds(1_000, case) for _ in range(3))
        large = min(seconds(20_000, case) for _ in range(2))
        assert large < 200 * small + 0.1, case  # 20 is linear, 400 quadratic, 110 was seen


# Diffs


def patched(old: bytes, *lines: str, path: str = "a.py") -> bytes | None:
    answer = parse("\n".join((f"<patch path='{path}'>", *lines, "</patch>")))
    assert answer.problems == ()
    return apply(answer.edits, {path: old}.get)[path]


def unread(*lines: str) -> str:
    answer = parse("\n".join(("<patch path='a.py'>", *lines, "</patch>")))
    assert answer.edits == ()
    (problem,) = answer.problems
    return problem


def test_a_hunk_stands_where_its_lines_stand_whatever_its_numbers_say() -> None:
    old = b"a\nb\nc\nd\n"
    for header in ("@@", "@@ -90,1 +7,55 @@ def f():", "@@ ... @@", "@@ -2 +2 @@"):
        assert patched(old, header, " b", "-c", "+x", "+y") == b"a\nb\nx\ny\nd\n"
    assert patched(old, "@@ -4 +4 @@", "-d", "+x", "@@ -1 +1 @@", "-a") == b"b\nc\nx\n"


def test_a_diff_quoted_from_the_prompt_is_prose() -> None:
    quoted = "You showed me\n<diff>\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x\n+y\n</diff>\n"
    answer = parse(quoted + render([edit("x", "z")]))
    assert answer.edits == (edit("x", "z"),)
    assert answer.problems == answer.notices == ()


def test_a_diff_as_git_prints_it_is_read() -> None:
    head = ["diff --git a/a.py b/a.py", "index 78981922..8b0ed35c 100644", "--- a/a.py\t2020-01-01", "+++ b/a.py"]
    assert (
        patched(b"a\nb", *head, "@@ -1,2 +1,2 @@", " a", "-b", r"\ No newline at end of file", "+c", r"\ No newline")
        == b"a\nc"
    )
    assert patched(b"a\n", "```diff", *head, "@@ -1 +1 @@", "-a", "+b", "```") == b"b\n"
    assert patched(b"a\n", "--- a.py", "+++ a.py", "@@ -1 +1 @@", "-a", "+b") == b"b\n"
    assert patched(b"a\n", "--- a/a/b.py", "+++ b/a/b.py", "@@", "-a", "+b", path="a/b.py") == b"b\n"


def test_lines_that_look_like_headers_are_lines_once_a_hunk_has_begun() -> None:
    assert (
        patched(b"-- a/x\n++ b/x\n@@ -1 +1 @@\n", "@@", "--- a/x", "+++ b/y", " ++ b/x", "-@@ -1 +1 @@")
        == b"++ b/y\n++ b/x\n"
    )


def test_an_empty_line_in_a_diff_is_an_empty_line_that_stays() -> None:
    assert patched(b"a\n\nb\n", "@@", " a", "", "-b", "+c") == b"a\n\nc\n"
    with pytest.raises(EditProblem, match="blank lines before or after"):
        patched(b"a\nb\n", "@@", "-b", "+c", "")


def test_lines_that_stay_keep_their_endings_even_where_difflib_would_pair_others() -> None:
    assert patched(b"x\r\nx\n", "@@", "-x", " x") == b"x\n"
    assert patched(b"x\r\nx\n", "@@", " x", "-x") == b"x\r\n"
    assert patched(b"a\r\nb\r\n", "@@", " a", "-b", "+c", "+d") == b"a\r\nc\r\nd\r\n"


def test_a_hunk_is_never_placed_by_likeness() -> None:
    for lines, said in {
        ("@@", "-first = 0"): [
            "patch a.py: the old text of the hunk does not stand in the file",
            "line 1 is `first = 1`",
        ],
        ("@@ -4 +4 @@", "-b"): ["stands at 2 places, lines 2 and 4"],
        ("@@ -1,0 +1 @@", "+x"): ["the hunk has no old lines"],
        ("@@", " b", "-a", "@@", " a", " b"): ["patch a.py, hunk 2: its old text", "overlaps", "make one hunk"],
    }.items():
        answer = parse("\n".join(("<patch path='a.py'>", *lines, "</patch>")))
        (problem,) = refused(answer.edits, {"a.py": b"first = 1\nb\na\nb\n"})
        assert all(part in problem for part in said), problem


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["-a", "+b"], "before the first hunk"),
        ([], "holds no hunk"),
        (["--- a/a.py", "+++ b/a.py"], "holds no hunk"),
        (["--- a/b.py", "+++ b/b.py", "@@", "-a"], "but the diff in it about b.py"),
        (["new file mode 100644", "@@", "+a"], "<file>, <delete> or <rename>"),
        (["@@", "-a", "b"], "Line 4: `b` has no sign"),
        (["@@", "-a", "+b", r"\ No newline at end of file"], "whole file in a <file>"),
    ],
)
def test_what_is_not_quite_a_diff_is_answered_with_how_to_write_it(lines: list[str], said: str) -> None:
    assert said in unread(*lines)


def test_diffs_and_edits_of_one_file_are_one_edit() -> None:
    changes = parse(render([Diff("a.py", (Hunk(("-a", "+x")),)), edit("c", "y")])).edits
    assert apply(changes, {"a.py": b"a\nb\nc\n"}.get) == {"a.py": b"x\nb\ny\n"}


# Several blocks


def test_every_failing_block_is_told_at_once() -> None:
    tree = {"a.py": b"one = 1\ntwo = 2\ntwo = 2\n", "b.py": b"b\n"}
    bad = Edit("a.py", (pair("on = 1", "x"), pair("one = 1", "x"), pair("two = 2", "x")))
    problems = refused([bad, Delete("gone.py"), File("/etc/passwd", ()), edit("b", "c", "b.py")], tree)
    assert len(problems) == 4
    assert any(problem.startswith("edit a.py, pair 1: ") for problem in problems)
    assert any(problem.startswith("edit a.py, pair 3: ") for problem in problems)


def test_pairs_are_all_searched_in_the_original_and_in_any_order() -> None:
    pairs = (pair("c", "a"), pair("a", "b\nb"), pair("b", ""))
    assert apply([Edit("a.py", pairs)], {"a.py": b"a\nb\nc\n"}.get) == {"a.py": b"b\nb\na\n"}
    assert apply([Edit("a.py", (one,)) for one in pairs], {"a.py": b"a\nb\nc\n"}.get) == {"a.py": b"b\nb\na\n"}


def test_overlapping_pairs_are_refused() -> None:
    pairs = (pair("b\nc", "x"), pair("a\nb", "y"))
    (problem,) = refused([Edit("a.py", pairs)], {"a.py": b"a\nb\nc\n"})
    assert "overlaps" in problem
    assert "lines 1-2 and 2-3" in problem
    assert "overlaps" in refused([edit("a", "x"), edit("a", "x")], {"a.py": b"a\n"})[0]
    assert "overlaps" in refused([edit("", "x"), edit("", "y")], {"a.py": b""})[0]


def test_an_edit_that_changes_nothing_is_no_success() -> None:
    tree = {"a.py": b"a\n"}
    nothings: list[list[Change]] = [[edit("a", "a")], [File("a.py", ("a",))], [Rename("a.py", "a.py")], []]
    for nothing in nothings:
        assert "changes nothing" in refused(nothing, tree)[0]


def test_files_an_edit_leaves_as_they_are_are_not_in_the_result() -> None:
    assert apply([edit("a", "a"), File("b.py", ("b",))], {"a.py": b"a\n"}.get) == {"b.py": b"b\n"}


def test_a_file_that_is_not_there_is_told_with_those_that_are_like_it() -> None:
    tree = {"src/pkg/models.py": b"a\n", "src/pkg/views.py": b"b\n", "docs/models.txt": b""}
    (problem,) = refused([edit("a", "b", "pkg/models.py")], tree)
    assert "did you mean src/pkg/models.py?" in problem
    assert "<file>" in problem
    assert "src/pkg/views.py" in refused([Delete("src/pkg/view.py")], tree)[0]
    assert "src/pkg/views.py" in refused([Rename("src/pkg/view.py", "x.py")], tree)[0]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a.py", "a/../../b", ".git/config", "sub/.GIT/hooks/x", "", ".", "a/", "a\0"]
)
def test_paths_outside_of_the_working_tree_are_refused(path: str) -> None:
    changes: list[Change] = [
        edit("a", "b", path),
        File(path, ("x",)),
        Delete(path),
        Rename(path, "b.py"),
        Rename("a.py", path),
    ]
    for change in changes:
        assert len(refused([change], {"a.py": b"a\n", path: b"a\n"})) == 1


def test_a_path_with_a_dot_before_it_is_the_same_path() -> None:
    assert apply([edit("a", "b", "./pkg//a.py")], {"pkg/a.py": b"a\n"}.get) == {"pkg/a.py": b"b\n"}


def test_a_file_cannot_stand_below_a_file_or_in_place_of_a_directory() -> None:
    tree = {"a.py": b"a\n", "pkg/b.py": b"b\n"}
    assert "a.py is a file" in refused([File("a.py/c.py", ())], tree)[0]
    assert "pkg is a directory" in refused([File("pkg", ())], tree)[0]
    assert apply([Delete("a.py"), File("a.py/c.py", ())], tree.get) == {"a.py": None, "a.py/c.py": b""}
    assert apply([Delete("pkg/b.py"), File("pkg", ())], tree.get, paths=list(tree)) == {"pkg/b.py": None, "pkg": b""}


def test_a_new_file_is_written_with_the_endings_it_asks_for() -> None:
    def written(file: File, old: bytes | None = None) -> bytes | None:
        return apply([file], {"n": old}.get)["n"]

    assert written(File("n", ("a", "b"))) == b"a\nb\n"
    assert written(File("n", ("a", "b"), end="none")) == b"a\nb"
    assert written(File("n", ("a", "b"), "crlf")) == b"a\r\nb\r\n"
    assert written(File("n", ("a", "b"), "crlf", "none")) == b"a\r\nb"
    assert written(File("n", ())) == b""
    assert written(File("n", ("a", "b")), b"x\r\ny\r\n") == b"a\r\nb\r\n"
    assert written(File("n", ("a", "b"), "lf"), b"x\r\ny\r\n") == b"a\nb\n"
    assert written(File("n", ("a", "b")), b"x\r\ny\n") == b"a\nb\n"
    assert parse('<file path="n" eol="crlf" end="none">\na\n</file>').edits == (File("n", ("a",), "crlf", "none"),)


def test_a_renamed_file_is_edited_under_its_new_name_by_its_old_text() -> None:
    tree = {"a.py": b"a\nx\n", "b.py": b"b\n"}
    rename = Rename("a.py", "c.py")
    assert apply([edit("a", "b", "c.py"), rename], tree.get) == {"a.py": None, "c.py": b"b\nx\n"}
    assert apply([rename, File("a.py", ("n",))], tree.get) == {"a.py": b"n\n", "c.py": b"a\nx\n"}
    assert "edit it as c.py" in refused([rename, edit("a", "b", "a.py")], tree)[0]


def test_a_rename_onto_a_file_that_stays_is_refused() -> None:
    tree = {"a.py": b"a\n", "b.py": b"b\n"}
    assert "b.py exists already" in refused([Rename("a.py", "b.py")], tree)[0]
    assert apply([Rename("a.py", "b.py"), Delete("b.py")], tree.get) == {"a.py": None, "b.py": b"a\n"}
    assert apply([Rename("a.py", "b.py"), Rename("b.py", "a.py")], tree.get) == {"a.py": b"b\n", "b.py": b"a\n"}


@pytest.mark.parametrize(
    "changes",
    [
        [File("a.py", ("x",)), File("a.py", ("y",))],
        [File("a.py", ("x",)), edit("a", "y")],
        [File("a.py", ("x",)), Delete("a.py")],
        [Delete("a.py"), Delete("a.py")],
        [Delete("a.py"), edit("a", "y")],
        [Delete("a.py"), Rename("a.py", "c.py")],
        [Rename("a.py", "c.py"), Rename("a.py", "d.py")],
        [Rename("a.py", "c.py"), Rename("b.py", "c.py")],
        [Rename("a.py", "c.py"), File("c.py", ("x",))],
    ],
)
def test_blocks_that_contradict_one_another_are_refused(changes: list[Change]) -> None:
    for order in (changes, changes[::-1]):
        (problem,) = refused(order, {"a.py": b"a\n", "b.py": b"b\n"})
        assert "the same answer" in problem or "block of the same" in problem


# There and back

TRICKY = [
    *(
        f"{open_}{name}{close}"
        for name in TAGS
        for open_, close in (("<", ">"), ("</", ">"), ("<", ":A>"), ("</", ":A>"))
    ),
    "<edit path='a'>",
    '  <file path="x">\t',
    "<file:B path='x' eol='lf'>",
    "</search >",
    "<done/>",
    "<delete path='a'/>",
    "<think>",
    "</think>",
    "```",
    "```python",
    "====",
    "======",
    "<<<<<<< SEARCH",
    ">>>>>>> REPLACE",
    "",
    " ",
    "\t",
    "\r",
    "a\r",
    "a\r\r",
    "\x0b",
    "a\x0cb",
    "\u2028",
    "\u2028</search>",
    "\x85",
    "\ufeff",
    "\ufeffa",
    "\udcff",
    "caf\udce9",
    "é",
    "a",
    "a",
    "b",
    "    a",
    "\ta",
]
line = st.one_of(
    st.sampled_from(TRICKY),
    st.text(st.sampled_from("<>/:=\"' abA\t\r\x0b\u2028\udc80é"), max_size=6),
)
lines = st.lists(line, max_size=6).map(tuple)
contents = st.builds(
    lambda texts, eol, end: (eol.join(texts) + (eol if end else "")).encode("utf-8", "surrogateescape"),
    st.lists(line, max_size=12),
    st.sampled_from(["\n", "\n", "\r\n"]),
    st.booleans(),
)
path = st.sampled_from(["a.py", "b.py", "pkg/c.py", "pkg/d e.py", "it's.txt", 'say "x".md', "é\udcff", "a=b>c/<x>.js"])


@st.composite
def two_trees(draw: st.DrawFn) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Two trees of the same few names, the second often made of the first by changes to its lines."""
    old = draw(st.dictionaries(path, contents, max_size=4))
    new = draw(st.dictionaries(path, contents, max_size=3))
    for name, text in old.items():
        fate = draw(st.sampled_from(["kept", "gone", "changed", "changed", "moved", "other"]))
        if fate == "kept":
            new[name] = text
        elif fate == "gone":
            new.pop(name, None)
        elif fate == "moved":
            new[draw(path)] = text
        elif fate == "changed":
            pieces = text.split(b"\n")
            for _ in range(draw(st.integers(1, 3))):
                at = draw(st.integers(0, len(pieces)))
                pieces[at : at + draw(st.integers(0, 2))] = draw(
                    st.lists(line.map(lambda said: said.encode("utf-8", "surrogateescape")), max_size=2)
                )
            new[name] = b"\n".join(pieces)
    return old, new


@often
@given(two_trees(), st.booleans())
def test_changes_between_two_trees_survive_being_written_and_read(
    trees: tuple[dict[str, bytes], dict[str, bytes]], diffs: bool
) -> None:
    old, new = trees
    changes = changes_between(old, new, diffs=diffs)
    assert not any(isinstance(change, Edit if diffs else Diff) for change in changes)
    if old == new:
        assert changes == ()
        return
    answer = parse(f"So be it:\n```\n{render(changes)}```\n")
    assert answer.problems == ()
    assert answer.edits == changes
    results = apply(answer.edits, old.get, paths=list(old))
    made = {**old, **results}
    assert {name: text for name, text in made.items() if text is not None} == new


signed = st.builds(str.__add__, st.sampled_from([" ", "-", "+"]), line)
change = st.one_of(
    st.builds(
        Diff,
        path,
        st.lists(st.builds(Hunk, st.lists(signed, max_size=6).map(tuple)), min_size=1, max_size=3).map(tuple),
    ),
    st.builds(Edit, path, st.lists(st.builds(Pair, lines, lines), min_size=1, max_size=3).map(tuple)),
    st.builds(File, path, lines, st.sampled_from([None, "lf", "crlf"]), st.sampled_from([None, "none"])),
    st.builds(Delete, path),
    st.builds(Rename, path, path),
)


@often
@given(st.lists(change, min_size=1, max_size=4))
def test_what_is_written_is_what_is_read(changes: list[Change]) -> None:
    assert parse(render(changes)).edits == tuple(changes)


@often
@given(st.lists(line, max_size=12).map("\n".join))
def test_no_reply_makes_the_parser_raise_or_an_answer_with_problems_edit(reply: str) -> None:
    answer = parse(reply)
    assert not (answer.problems and (answer.edits or answer.done or answer.choose is not None))
    assert answer.problems or answer.edits or answer.tests or answer.done or answer.choose is not None or answer.notices


@often
@given(contents, st.lists(change, max_size=4))
def test_no_edit_makes_apply_raise_but_what_it_promises(text: bytes, changes: list[Change]) -> None:
    tree = {"a.py": text, "b.py": b"a\nb\n", "pkg/c.py": b"a"}
    with contextlib.suppress(EditProblem):
        results = apply(changes, tree.get, paths=list(tree), others=tree)
        assert results
        assert all(new != tree.get(name) for name, new in results.items())
        return
    assert refused(changes, tree, others=tree)


@often
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20), st.data())
def test_an_edit_replaces_its_lines_and_no_others(texts: list[str], data: st.DataObject) -> None:
    endings = [data.draw(st.sampled_from(["\n", "\r\n"])) for _ in texts]
    endings[-1] = data.draw(st.sampled_from(["\n", "\r\n", ""]))
    start = data.draw(st.integers(0, len(texts) - 1))
    stop = data.draw(st.integers(start + 1, len(texts)))
    new = data.draw(st.lists(st.sampled_from("xyz"), max_size=4))
    old = "".join(text + ending for text, ending in zip(texts, endings, strict=True))
    once = [texts[n : n + stop - start] for n in range(len(texts))].count(texts[start:stop]) == 1
    changes = [Edit("a.py", (Pair(tuple(texts[start:stop]), tuple(new)),))]
    if not once:
        assert "places" in refused(changes, {"a.py": old.encode()})[0]
        return
    made = apply(changes, {"a.py": old.encode()}.get)["a.py"]
    assert made is not None
    before = "".join(text + ending for text, ending in zip(texts[:start], endings[:start], strict=True))
    after = "".join(text + ending for text, ending in zip(texts[stop:], endings[stop:], strict=True))
    said = made.decode()
    assert said.startswith(before)
    assert said.endswith(after)
    middle = said[len(before) : len(said) - len(after)]
    assert middle.replace("\r", "").split("\n") == [*new, ""] or middle.replace("\r", "").split("\n") == new or not new
    assert new or not middle
    assert not new or middle.endswith("\n") == bool(endings[stop - 1])


def test_a_small_change_is_said_as_a_small_edit() -> None:
    old = b"".join(b"x = %d\n\n" % n for n in range(100))
    (change,) = changes_between({"a.py": old}, {"a.py": old.replace(b"x = 50\n", b"x = 51\ny = 2\n")})
    assert change == edit("x = 50", "x = 51\ny = 2")


def test_an_insertion_among_repeated_lines_quotes_enough_around_it() -> None:
    old = b"a\n\nb\n\nc\n\na\n"
    new = b"a\n\nb\n\nnew\n\nc\n\na\n"
    changes = changes_between({"a.py": old}, {"a.py": new})
    assert isinstance(changes[0], Edit)
    assert apply(changes, {"a.py": old}.get) == {"a.py": new}


def test_a_moved_file_is_said_as_a_rename() -> None:
    assert changes_between({"a.py": b"a\n"}, {"b.py": b"a\n"}) == (Rename("a.py", "b.py"),)


def test_a_path_that_cannot_be_written_is_an_error_and_not_another_path() -> None:
    for path_ in ("a\nb", "both \" and '"):
        with pytest.raises(ValueError, match="attribute"):
            render([Delete(path_)])
    with pytest.raises(ValueError, match="newline"):
        render([File("a", ("x\ny",))])


# Syntax


@pytest.mark.parametrize(
    ("path_", "text", "said"),
    [
        ("a.py", b"def f(:\n    return 1\n", ["line 1: syntax error near `def f(`: ) is missing"]),
        ("a.py", b"x = 1\n```\n", ["line 2: syntax error near `````"]),
        ("a.py", b"a = 1\n<<<<<<< HEAD\nb = 2\n", ["line 2: syntax error near `<<<<<<<`"]),
        ("a.py", b"def f():\n    return 1\n", []),
        ("a.py", b"print 'Python 2 is fine'\n", []),
        ("a.pyi", b"def f(: ...\n", ["line 1: syntax error near `def f(`: ) is missing"]),
        ("a.js", b"function f( {\n", None),
        ("a.mjs", b"export const x = <b>1</b>;\n", []),
        ("a.txt", b"def f(:\n", []),
        ("Makefile", b"def f(:\n", []),
        ("a.py", b"", []),
        ("a.py", b"x = '\xff'\n", []),
    ],
)
def test_syntax_errors_name_the_line_and_what_stands_there(path_: str, text: bytes, said: list[str] | None) -> None:
    errors = syntax_errors(path_, text)
    if said is None:
        assert errors
        assert errors[0].startswith("line 1: syntax error near `")
    else:
        assert errors == said


def test_errors_the_original_had_are_not_held_against_the_edit() -> None:
    old = b"x = 1\n<<<<<<< HEAD\n"
    assert syntax_errors("a.py", b"y = 0\n" + old, old) == []
    assert syntax_errors("a.py", old + b">>>>>>> end\n", old) == ["line 3: syntax error near `>>>>>>>`"]
    assert syntax_errors("a.py", old + old, old) == ["line 4: syntax error near `<<<<<<<`"]


def test_a_deeply_nested_file_is_no_trouble() -> None:
    assert syntax_errors("a.py", b"x = " + b"(" * 3000 + b"1" + b")" * 3000 + b"\n") == []

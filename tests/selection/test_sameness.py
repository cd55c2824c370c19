"""Whether two candidates are one: what counts as the same change, and what does not."""

from __future__ import annotations

import pytest

from runoff.selection.sameness import fingerprint, same_lines, same_script, same_text

CODE = """\
class Box:
    def put(self, item, *, twice=False):
        if twice:
            self.items.append(item)
        self.items.append(item)
        return self
"""


def same(one: str | bytes | None, other: str | bytes | None, path: str = "a.py") -> bool:
    both = (text.encode() if isinstance(text, str) else text for text in (one, other))
    first, second = (fingerprint({path: text}) for text in both)
    return first == second


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("        if twice", "        # both, if so asked\n\n        if twice"),
        CODE.replace("append(item)", "append( item )"),
        CODE.replace("item, *, twice=False", "item,\n            *,\n            twice = False"),
        CODE.replace("    ", "  "),
        CODE.replace("    ", "\t"),
        CODE.replace("\n", "\r\n"),
        CODE.rstrip("\n"),
        CODE + "\n\n# the end\n",
        CODE.replace("return self", "return \\\n            self"),
        CODE.replace("if twice:\n            self", "if twice: self"),
    ],
)
def test_comments_blank_lines_and_layout_fall_away(other: str) -> None:
    assert other != CODE
    assert same(CODE, other)


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace(
            "        self.items.append(item)\n        return", "            self.items.append(item)\n        return"
        ),
        CODE.replace("        return self", "            return self"),
        CODE.replace("    def put", "def put").replace("\n        ", "\n    "),
        CODE.replace("False", "True"),
        CODE.replace("put", "set"),
        CODE.replace("twice:", "not twice:"),
        CODE.replace("item, *, twice", "item, twice"),
        CODE.replace("class Box:", 'class Box:\n    """A box."""'),
    ],
)
def test_what_means_something_is_a_change(other: str) -> None:
    assert other != CODE
    assert not same(CODE, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"""Say."""\n', '"""Say so."""\n'),
        ("x = 'a b'\n", "x = 'a  b'\n"),
        ("x = 'a # b'\n", "x = 'a # c'\n"),
        ("x = '''\na\n'''\n", "x = '''\n  a\n'''\n"),
        ("x = f'{a} b'\n", "x = f'{a}  b'\n"),
        ("x = 'a' 'b'\n", "x = 'a', 'b'\n"),
        ("x = 1\n", "x = 1.0\n"),
        ("x = a - -b\n", "x = a + -b\n"),
        ("x = (a, b)\n", "x = (a * b)\n"),
        ("if a:\n    b()\nc()\n", "if a:\n    b()\n    c()\n"),
        ("if a:\n    if b:\n        c()\n    else:\n        d()\n", "if a:\n    if b:\n        c()\nelse:\n    d()\n"),
        ("for a in b:\n    c()\nelse:\n    d()\n", "for a in b:\n    c()\nd()\n"),
    ],
)
def test_a_string_an_operator_or_a_block_is_not_layout(one: str, other: str) -> None:
    assert not same(one, other)


def test_javascript_is_read_as_javascript() -> None:
    one = "function f(a) { return a + 1; } // one more\n"
    assert same(one, "function f(a) {\n  return a + 1;\n}\n", "a.js")
    assert not same(one, "function f(a) { return\n a + 1; }\n", "a.js"), "a line end can end a statement"
    assert not same("x = `a b`\n", "x = `a  b`\n", "a.js")
    assert not same("x = /a b/\n", "x = /a  b/\n", "a.js")


LANGUAGES = {
    "a.ts": (
        "const f = (a: number): string => `${a} b`; // c\n",
        "const f =\n  (a: number): string => `${a} b`;\n",
        "`${a}  b`",
    ),
    "a.tsx": ("const e = <p title='a'>x y</p>; /* c */\n", "const e = <p title='a'>x y</p>;\n", "x  y"),
    "a.go": ('package p\n\nvar s = "a b" // c\n', 'package p\nvar s = "a b"\n', '"a  b"'),
    "a.rs": ('fn f() { let s = "a b"; } // c\n', 'fn f() {\n    let s = "a b";\n}\n', '"a  b"'),
    "A.java": ('class A { String s = "a b"; /* c */ }\n', 'class A {\n  String s = "a b";\n}\n', '"a  b"'),
    "a.c": ('#define D "d"\nchar *s = "a b"; // c\n', '#define D "d"\nchar *s =\n  "a b";\n', '"a  b"'),
    "a.cpp": ('template <class T> T s = "a b"; // c\n', 'template <class T>\nT s = "a b";\n', '"a  b"'),
    "a.rb": ("def f\n  'a b' # c\nend\n", "def f\n 'a b'\n\nend\n", "'a  b'"),
    "a.php": ("<?php $s = 'a b'; // c\n", "<?php\n$s = 'a b';\n", "'a  b'"),
    "a.cs": ('class A { string s = "a b"; /* c */ }\n', 'class A {\n  string s = "a b";\n}\n', '"a  b"'),
}


@pytest.mark.parametrize("path", LANGUAGES)
def test_every_language_with_a_grammar_is_read_as_itself(path: str) -> None:
    one, other, wider = LANGUAGES[path]
    assert same(one, other, path)
    narrow = wider.replace("  ", " ")
    assert narrow in one
    assert not same(one, one.replace(narrow, wider), path), "white space in a string means something"
    assert not same(one, one.replace("s", "t").replace("f", "g").replace("title", "name"), path)


ONE = b"--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,3 @@ def f\n a\n+b\n+ # c\n-c\n"


def test_the_text_of_a_change_is_the_same_wherever_it_stands() -> None:
    moved = b"diff --git a/x.py b/x.py\nindex 1..2\n--- a/x.py\n+++ b/x.py\n@@ -7 +9,2 @@\n+b\n+ # c\n-c\n"
    assert same_text(ONE) == same_text(moved)
    for old, new in ((b"+b", b"+ b"), (b"x.py", b"y.py"), (b"-c", b"-d"), (b"# c", b"# d")):
        assert same_text(ONE) != same_text(ONE.replace(old, new))


def test_the_coarse_name_of_a_change_leaves_out_comments_and_white_space() -> None:
    assert same_lines(ONE) == same_lines(ONE.replace(b"+b", b"+ b").replace(b"# c", b"# d"))
    assert same_lines(ONE) != same_lines(ONE.replace(b"-c", b"-d"))


def test_a_tree_as_deep_as_its_file_is_long_is_read() -> None:
    deep = "let x = " + "[" * 3000 + "]" * 3000 + ";\n"
    assert same(deep, deep.replace("let x", "let  x"), "a.js")


def test_the_same_change_in_two_files_is_not_the_same() -> None:
    assert fingerprint({"a.py": b"x\n"}) != fingerprint({"b.py": b"x\n"})
    assert fingerprint({"a.py": b"x\n"}) != fingerprint({"a.py": b"x\n", "b.py": b"x\n"})


def test_the_order_of_files_does_not_count() -> None:
    assert fingerprint({"a.py": b"x\n", "b.py": b"y\n"}) == fingerprint({"b.py": b"y\n", "a.py": b"x\n"})


def test_a_file_that_does_not_parse_is_taken_as_text() -> None:
    assert not same("def f(:\n    pass\n", "def f(:\n\n    pass\n")
    assert same("def f(:\n    pass\n", "def f(:\n    pass\n")
    assert not same("def f(:\n    pass\n", "def f():\n    pass\n")


def test_a_file_in_a_language_that_is_not_known_is_taken_as_text() -> None:
    assert not same("a b\n", "a  b\n", "a.txt")
    assert same("a b\n", "a b\n", "a.txt")


def test_bytes_that_are_not_utf_8_are_told_apart() -> None:
    assert not same(b"x = '\xe9'\n", b"x = '\xe8'\n")
    assert not same(b"\xe9", b"\xe8", "a.txt")


@pytest.mark.parametrize("text", [b"", b"deleted", b"None"])
def test_a_deleted_file_is_like_no_file_that_is_there(text: bytes) -> None:
    assert not same(None, text, "a.txt")
    assert not same(None, text)


def test_contents_cannot_pass_for_another_file() -> None:
    assert fingerprint({"a": b"x\0b\0y"}) != fingerprint({"a": b"x", "b": b"y"})
    assert fingerprint({"a": b"x', 'b'"}) != fingerprint({"a": b"x", "b": b""})


def test_scripts_that_differ_in_layout_are_one_test() -> None:
    assert same_script("import sys\n# fails\nsys.exit( 2 )", "python") == same_script(
        "import sys\n\n\nsys.exit(2)\n", "python"
    )
    assert same_script("import sys\nsys.exit(0)", "python") != same_script("import sys\nsys.exit(2)", "python")
    assert same_script("if a:\n  b()\nc()", "python") != same_script("if a:\n  b()\n  c()", "python")


@pytest.mark.parametrize(
    "script",
    [
        "not python (",
        "x = '\0'",
        "\ud800",
        pytest.param("-" * 20_000 + "1", id="deep"),
        pytest.param("f(" * 5000, id="deeper"),
        "",
    ],
)
def test_a_script_that_cannot_be_parsed_stays_as_it_is(script: str) -> None:
    assert same_script(script, "python") == script

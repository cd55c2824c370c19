"""The context: which files are found, what happens to answers that cannot be read, what fits."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.context import (
    Context,
    ContextRecipe,
    cut,
    find_context,
    is_test,
    merged,
    pack,
    shared_prompt,
    shortlist,
)
from runoff.agent.doubles import Scripted
from runoff.agent.environment import once
from runoff.agent.outline import outline
from runoff.agent.protocol import Reply
from runoff.agent.step import Ended
from runoff.agent.tokenizers import tokens
from tests.workshop import Workshop

TREE = {
    "shop/__init__.py": b"",
    "shop/cart.py": b"class Cart:\n    def total_price(self): ...\n",
    "shop/till.py": b"def open_till(): ...\n",
    "shop/names.py": b"NAMES = ()\n",
    "docs/conf.py": b"project = 'shop'\n",
    "tests/test_cart.py": b"total_price total_price\n",
    "README.md": b"total_price\n",
    "setup.py": b"setup()\n",
}
ISSUE = "Cart.total_price is wrong when a price is None"


# The lexical search


@pytest.mark.parametrize("issue", ["See shop/names.py, total_price", "`shop.names.NAMES`: total_price is wrong"])
def test_a_file_that_the_issue_names_comes_first(issue: str) -> None:
    assert shortlist(TREE, issue, 9)[:2] == ["shop/names.py", "shop/cart.py"]


def test_a_file_with_the_issue_s_words_comes_before_one_without() -> None:
    assert shortlist(TREE, "the total price is wrong", 9)[0] == "shop/cart.py"
    assert shortlist(TREE, "TotalPrice", 9)[0] == "shop/cart.py", "parts of words count"


def test_only_source_files_are_listed_and_no_more_than_asked_for() -> None:
    found = shortlist(TREE, ISSUE, 9)
    assert set(found) == {
        "shop/__init__.py",
        "shop/cart.py",
        "shop/till.py",
        "shop/names.py",
        "docs/conf.py",
        "setup.py",
    }
    assert len(shortlist(TREE, ISSUE, 2)) == 2


def test_a_source_tree_may_be_named_in_full_below_src() -> None:
    tree = {"src/shop/deep/till.py": b"", "src/shop/cart.py": b"total"}
    assert shortlist(tree, "shop.deep.till has no total", 1) == ["src/shop/deep/till.py"]


@pytest.mark.parametrize("tree", [{}, {"a.c": b""}, {"a.py": b"\xff\0\xe9"}, {"caf\udce9.py": b"x"}, {"R": b"x"}])
def test_odd_trees_are_searched_too(tree: dict[str, bytes]) -> None:
    assert set(shortlist(tree, "x", 9)) == {path for path in tree if "." in path}


@given(st.permutations(sorted(TREE)), st.text())
def test_the_order_of_the_tree_does_not_count(paths: list[str], issue: str) -> None:
    assert shortlist({path: TREE[path] for path in paths}, issue, 9) == shortlist(TREE, issue, 9)


def test_it_is_the_same_in_every_process() -> None:
    """Words are held in sets, whose order is another in each process: sums of fractions must not depend on it."""
    script = (
        "from runoff.agent.context import shortlist\n"
        "words = [f'word{n}' for n in range(301)]\n"
        "def text(shift): return ' '.join(w for n, w in enumerate(words) for _ in range((n + shift) % 7 + 1))\n"
        "tree = {f'{c}{c}.py': text(i).encode() for i, c in enumerate('zyxwvut')}\n"
        "print(shortlist(tree, ' '.join(words), 99))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


@pytest.mark.parametrize(
    "path",
    [
        "tests/x.py",
        "pkg/tests/data.py",
        "test/x.py",
        "testing/x.py",
        "test_x.py",
        "pkg/test_x.py",
        "pkg/x_test.go",
        "src/x.test.ts",
        "src/x.spec.js",
        "spec/x_spec.rb",
        "src/__tests__/x.jsx",
        "conftest.py",
        "pkg/Tests/X.py",
        "core/src/test/java/shop/Prices.java",
        "shop/CartTest.java",
        "shop/CartIT.java",
        "Shop.Tests/Cart.cs",
        "Shop/CartTests.cs",
        "src/CartTest.php",
        "net/socket_unittest.cc",
        "pkg/testdata/in.go",
        "crates/shop/tests/api.rs",
        "lib/test/helper.rb",
        "src/__mocks__/fs.js",
        "web/cypress/login.js",
        "web/login.cy.ts",
    ],
)
def test_what_is_a_test(path: str) -> None:
    assert is_test(path)


@pytest.mark.parametrize(
    "path",
    [
        "src/x.py",
        "latest.py",
        "pkg/testing/tools.py",
        "pkg/test/client.py",
        "contest.py",
        "pkg/testutils.py",
        "inspect.py",
        "shop/Latest.java",
        "shop/Contest.cs",
        "src/testament.rs",
        "src/attest.go",
        "shop/EDIT.java",
    ],
)
def test_what_is_none(path: str) -> None:
    assert not is_test(path)


# What the model is asked


class Reader:
    def __init__(self, workshop: Workshop) -> None:
        self.workshop, self.model = workshop, Scripted([])

    def find(self, answers: dict[str, str], tree: dict[str, bytes] = TREE, **recipe: int) -> Ended[Context]:
        self.model = Scripted(answers)
        return self.workshop.trajectory(
            Context,
            lambda step: find_context(step, "reader", "ranker", tree, ISSUE, ContextRecipe(search="words", **recipe)),
            self.model,
        )

    @property
    def asked(self) -> list[str]:
        return [call.path for call in self.model.calls]


@pytest.fixture
def reader(workshop: Workshop) -> Reader:
    return Reader(workshop)


def fenced(value: object) -> str:
    return f"I think so.\n\n```json\n{json.dumps(value)}\n```\n"


RELEVANT = fenced({"shop/cart.py": "the total", "shop/till.py": "opens\nit", "nowhere.py": "?"})
ASK, AGAIN = "relevance1/ask", "relevance1/again"


def test_relevant_files_in_the_ranker_s_order(reader: Reader) -> None:
    ended = reader.find({ASK: RELEVANT, "ranking": fenced(["shop/till.py", "shop/cart.py"])})
    assert ended == Ended(
        reason="done",
        value=Context(
            whole=("shop/till.py", "shop/cart.py"), summaries={"shop/cart.py": "the total", "shop/till.py": "opens it"}
        ),
    )
    assert [call.request.model for call in reader.model.calls] == ["reader", "ranker"]
    assert reader.model.calls[0].request.sampling.temperature == 0


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "All of them.",
        "```json\n{\n```",
        fenced(["shop/cart.py"]),
        fenced("x"),
        pytest.param("[" * 100_000, id="deep"),
        "```json\nnull\n```",
    ],
)
def test_relevance_that_cannot_be_read_is_asked_again_then_the_lexical_order_stands(
    reader: Reader, garbage: str
) -> None:
    ended = reader.find({ASK: garbage, AGAIN: garbage})
    assert ended.value
    assert ended.value.whole == tuple(shortlist(TREE, ISSUE, 40))
    assert ended.note == (
        "relevance question relevance1 was not answered readably; "
        "no file was called relevant: the order is that of the lexical search"
    )
    assert reader.asked == [ASK, AGAIN]
    assert "could not read" in reader.model.calls[1].request.conversation.text


def test_without_relevance_no_model_is_asked(reader: Reader) -> None:
    ended = reader.find({}, relevance=False)
    assert ended.value
    assert (ended.value.whole, ended.note) == (tuple(shortlist(TREE, ISSUE, 40)), "")
    assert reader.asked == []


def test_several_rankings_are_drawn_warm_and_merged(reader: Reader) -> None:
    till, cart = fenced(["shop/till.py", "shop/cart.py"]), fenced(["shop/cart.py", "shop/till.py"])
    rankings = {"ranking1/ranking": till, "ranking2/ranking": cart, "ranking3/ranking": till}
    ended = reader.find({ASK: RELEVANT} | rankings, rankings=3)
    assert ended.value
    assert ended.value.whole == ("shop/till.py", "shop/cart.py")
    assert {call.request.sampling.temperature for call in reader.model.calls[1:]} == {0.7}


@given(
    st.permutations("abcdef"),
    st.lists(st.permutations("abcdef").flatmap(lambda p: st.integers(0, 6).map(lambda n: p[:n]))),
)
def test_merging_keeps_every_file_and_follows_rankings_that_agree(listed: list[str], orders: list[list[str]]) -> None:
    found = merged(orders, listed)
    assert sorted(found) == sorted(listed)
    assert found == merged(orders[::-1], listed)
    if not orders:
        assert found == listed
    for one in found:
        for other in found:
            if orders and all(
                one in order and (other not in order or order.index(one) < order.index(other)) for order in orders
            ):
                assert found.index(one) < found.index(other)


def test_a_second_answer_that_can_be_read_counts(reader: Reader) -> None:
    ended = reader.find({ASK: "Hm.", AGAIN: RELEVANT, "ranking": fenced(["shop/cart.py"])})
    assert ended.value
    assert ended.value.whole == ("shop/cart.py", "shop/till.py"), "what the ranking left out comes behind"
    assert ended.note == ""


def test_the_last_block_of_an_answer_counts(reader: Reader) -> None:
    ended = reader.find({ASK: fenced({"setup.py": "no"}) + RELEVANT, "ranking": fenced(["shop/cart.py"])})
    assert ended.value
    assert "setup.py" not in ended.value.whole


def test_nothing_relevant_means_the_lexical_order(reader: Reader) -> None:
    ended = reader.find({ASK: fenced({})})
    assert ended.value
    assert ended.note == "no file was called relevant: the order is that of the lexical search"
    assert reader.asked == [ASK]


@pytest.mark.parametrize(
    "garbage", ["", "cart, then till", fenced({"shop/cart.py": 1}), fenced(["nowhere.py"]), fenced([])]
)
def test_a_ranking_that_cannot_be_read_is_asked_again_then_the_lexical_order_stands(
    reader: Reader, garbage: str
) -> None:
    ended = reader.find({ASK: RELEVANT, "ranking": garbage, "ranking-again": garbage})
    assert ended.value
    assert ended.value.whole == ("shop/cart.py", "shop/till.py")
    assert ended.note == "the ranking was not readable: the order is that of the lexical search"


def test_a_ranking_may_repeat_and_invent(reader: Reader) -> None:
    odd = fenced(["nowhere.py", "shop/till.py", "shop/till.py", 3, None, "shop/cart.py"])
    ended = reader.find({ASK: RELEVANT, "ranking": odd})
    assert ended.value
    assert ended.value.whole == ("shop/till.py", "shop/cart.py")


def test_many_files_are_asked_about_in_several_questions(reader: Reader) -> None:
    tree = {f"m{n}.py": b"price = 1\n" * 100 for n in range(6)} | {"big.py": b"x = 1\n" * 5000}
    answers = {f"relevance{n}/ask": fenced({f"m{n}.py": "x"}) for n in range(9)}
    ended = reader.find(answers | {"ranking": fenced(["m1.py"])}, tree, relevance_tokens=600)
    questions = [call for call in reader.model.calls if call.path.startswith("relevance")]
    assert len(questions) == 4, "two small files a question, and the large one alone"
    assert sum(call.request.conversation.text.count("<document") for call in questions) == len(tree) + 4
    assert ended.value


@pytest.mark.parametrize("tree", [{}, {"README.md": b"x"}, {"tests/test_x.py": b"x"}, {"a.py": b"x" * 500_000}])
def test_a_repository_without_a_source_file_has_no_context_and_says_why(reader: Reader, tree: dict[str, bytes]) -> None:
    ended = reader.find({}, tree)
    assert ended == Ended(reason="done", note="the repository holds no source file that could be relevant")
    assert reader.asked == []


def test_half_a_character_in_an_answer_stops_nothing(reader: Reader) -> None:
    half = '```json\n{"shop/cart.py": "\\ud800"}\n```'
    ended = reader.find({ASK: half, "ranking": fenced(["shop/cart.py"])})
    assert ended.value
    assert Ended[Context].model_validate(json.loads(json.dumps(ended.model_dump(mode="json")))) == ended


# What fits

BIG = b"class Big:\n    def first(self):\n        pass\n" + b"    x = 1\n" * 500
SMALL = b"def small():\n    pass\n"


def test_a_file_that_is_too_large_is_passed_over_and_outlined() -> None:
    tree = {"big.py": BIG, "small.py": SMALL, "last.py": SMALL}
    context = pack(["big.py", "small.py", "last.py"], tree, 100)
    assert context == Context(whole=("small.py", "last.py"), outlined=("big.py",))


def test_nothing_goes_over_the_budget() -> None:
    tree = {"big.py": BIG, "small.py": SMALL}
    assert pack(["big.py", "small.py"], tree, tokens(SMALL)) == Context(whole=("small.py",))
    assert pack(["big.py"], tree, 0) == Context(whole=())
    assert pack([], tree, 100) == Context(whole=())
    assert pack(["big.txt"], {"big.txt": BIG}, 100) == Context(whole=()), "no outline where there is no grammar"


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(0, 2000))
def test_whole_files_and_outlines_together_stay_below_the_budget(sizes: list[int], budget: int) -> None:
    tree = {f"f{n}.py": b"def f():\n    pass\n#" + b"x" * size for n, size in enumerate(sizes)}
    context = pack(list(tree), tree, budget)
    spent = sum(tokens(tree[path]) for path in context.whole)
    spent += sum(tokens(outline(path, tree[path])) for path in context.outlined)
    assert spent <= budget
    assert not set(context.whole) & set(context.outlined)


def test_the_shared_prompt_holds_files_byte_for_byte_and_outlines_with_line_numbers() -> None:
    spaced = b"a = 1\n\n\n\n\nb = 2\n"
    context = Context(whole=("spaced.py",), outlined=("big.py",))
    tree = {"spaced.py": spaced, "big.py": BIG}
    text = shared_prompt(context, tree, ISSUE, "the grammar", "Python 3").text
    assert spaced.decode() in text, "search text that runs over blank lines must match"
    assert "2: def first(self)" in text
    assert "    x = 1" not in text
    assert text == shared_prompt(context, tree, ISSUE, "the grammar", "Python 3").text


# Outlines

NESTED = b'''\
import os

@decorated
class Outer(Base):
    """Doc."""
    class Inner:
        async def deep(self, a: int,
                       *, b=(1,
                             2)) -> None:
            def local(): ...

    @property
    def value(self): return 1

if os.name:
    def guarded(): ...

def plain(): ...
'''


def test_nested_classes_are_outlined_with_their_line_numbers_and_bodies_are_not() -> None:
    assert outline("x.py", NESTED).splitlines() == [
        "4: class Outer(Base)",
        "    6: class Inner",
        "        7: async def deep(self, a: int, *, b=(1, 2)) -> None",
        "    13: def value(self)",
        "16: def guarded()",
        "18: def plain()",
    ]


def test_javascript_is_outlined() -> None:
    source = b"import x from 'x';\nexport class A extends B {\n  put(item) { return 1; }\n}\n"
    source += b"export const f = (a) => {\n  1;\n};\nfunction g(a, b) { }\n"
    assert outline("x.js", source).splitlines() == [
        "2: class A extends B",
        "    3: put(item)",
        "5: const f = (a) =>",
        "8: function g(a, b)",
    ]


@pytest.mark.parametrize("source", [b"", b"def (", b"\xff\0", b"class", b"x = 1"])
def test_source_that_does_not_parse_is_outlined_as_far_as_it_goes(source: bytes) -> None:
    outline("x.py", source)
    outline("x.js", source)
    assert outline("x.unknown", source) == ""


def test_an_answer_that_was_cut_off_is_asked_for_again(reader: Reader) -> None:
    cut = Reply(text=RELEVANT[:30], finish="length")
    ended = reader.find({ASK: cut, AGAIN: RELEVANT, "ranking": fenced(["shop/cart.py"])})  # type: ignore[dict-item]
    assert ended.value
    assert ended.value.whole[0] == "shop/cart.py"


def test_a_file_named_inside_a_longer_name_is_not_named() -> None:
    tree = {"io.py": b"def a(): pass\n", "audio.py": b"def play(sound): pass\n", "pkg/io.py": b"x = 1\n"}
    assert shortlist(tree, "audio.py crashes when it should play a sound", 3)[0] == "audio.py"
    assert shortlist(tree, "see `io.py`, it should play no sound", 3)[0] == "io.py"


def test_the_last_line_of_a_script_is_outlined_whole() -> None:
    assert outline("a.js", b"const x = 12") == "1: const x = 12"


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    excerpts=st.integers(0, 5),
    share=st.floats(0.01, 1),
)
def test_a_cut_keeps_the_best_and_no_more_than_its_share(sizes: list[int], excerpts: int, share: float) -> None:
    tree = {f"f{n}.py": f"def f{n}(): ...\n{'x = 1' + chr(10)}".encode() * size for n, size in enumerate(sizes)}
    whole = Context(whole=tuple(tree), excerpts={f"e{n}.py": ((1, 2),) for n in range(excerpts)})
    part = cut(whole, tree, share)
    assert part.whole[0] == whole.whole[0]
    assert list(part.whole) == [path for path in whole.whole if path in part.whole], "in their order"
    kept = sum(tokens(tree[path]) for path in part.whole[1:])
    assert kept <= share * sum(tokens(tree[path]) for path in tree)
    assert set(part.outlined) == set(tree) - set(part.whole)
    assert list(part.excerpts) == list(whole.excerpts)[: round(share * excerpts)]
    assert cut(whole, tree, 1.0) == whole


def test_what_two_trees_have_in_common_is_held_once_and_as_long_as_somebody_holds_it() -> None:
    def made(word: bytes) -> dict[str, bytes]:
        return {"same.py": bytes(bytearray(b"alike " * 100)), "other.py": word * 100}

    first = once(iter(made(b"one").items()))
    second = once(iter(made(b"two").items()))
    assert second["same.py"] is first["same.py"]
    assert (dict(first), dict(second)) == (made(b"one"), made(b"two"))
    del first, second
    gc.collect()
    third = once(iter(made(b"one").items()))
    assert dict(third) == made(b"one")

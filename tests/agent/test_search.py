"""Finding the code without a model: what an issue names comes first, whatever the process; what changed is read, nothing else."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.context import Context, find_code, shared_prompt
from runoff.agent.definitions import definitions, owners
from runoff.agent.index import Index, Moved, blob_hash, default_place
from runoff.agent.packing import excerpt, own_lines, pack, spans
from runoff.agent.search import is_vendored
from runoff.agent.tokenizers import counter, tokens

TOKENIZER_PARTS = ("truncation", "padding", "normalizer", "post_processor", "decoder")
FILLER = b"".join(b"def filler_%d(x):\n    return x + %d\n\n" % (n, n) for n in range(200))
TREE = {
    "shop/__init__.py": b"from .cart import Cart\n",
    "shop/cart.py": b"from .money import rounded\n\n"
    b"class Cart:\n    limit = 3\n\n    def total(self):\n        return rounded(sum(self))\n",
    "shop/money.py": b"def rounded(sum):\n    return sum\n",
    "shop/names.py": b"def greeting(name):\n    return name.title()\n",
    "shop/big.py": FILLER + b"def settle_invoice(invoice):\n    return invoice.pay()\n",
    "shop/_vendor/cart.py": b"class Cart:\n    def total(self):\n        return sum(self)\n",
    "docs/conf.py": b"total = cart = Cart = 1\n",
    "tests/test_cart.py": b"def test_total(): Cart().total()\n",
}
SPLIT = {
    "a.py": (b"@d\nclass A:\n    def f(self):\n        def g(): pass\n", ["A", "A.f"]),
    "a.js": (b"class A { f() { return 1 } }\nfunction g() {}\n", ["A", "A.f", "g"]),
    "a.ts": (b"export class A { f(): number { return 1 } }\ninterface I { a: number }\n", ["A", "A.f", "I"]),
    "a.go": (b"package a\ntype S struct {}\nfunc (s *S) F() int { return 1 }\n", ["S", "F"]),
    "a.rs": (b"struct S;\nimpl S { fn f(&self) -> i32 { 1 } }\n", ["S", "S", "S.f"]),
    "a.java": (b"class A { int f() { return 1; } }\n", ["A", "A.f"]),
    "a.c": (b"static int *f(int a) { return 0; }\n", ["f"]),
    "a.cpp": (b"namespace n { class A { int f() { return 1; } }; }\n", ["n", "n.A", "n.A.f"]),
    "a.rb": (b"class A\n  def f\n  end\nend\n", ["A", "A.f"]),
    "a.php": (b"<?php class A { function f() { return 1; } }\n", ["A", "A.f"]),
    "a.cs": (b"namespace N { class A { int F() { return 1; } } }\n", ["N", "N.A", "N.A.F"]),
}


def first(issue: str, n: int = 1) -> list[str]:
    return find_code(TREE, issue).found.files[:n]


@pytest.mark.parametrize("path", SPLIT)
def test_files_are_split_into_their_definitions(path: str) -> None:
    source, names = SPLIT[path]
    assert [found.name for found in definitions(path, source)] == names


@given(st.binary(max_size=300), st.sampled_from(sorted(SPLIT)))
def test_no_source_is_too_broken_to_be_split(noise: bytes, path: str) -> None:
    source = SPLIT[path][0] + noise
    found = definitions(path, source)
    lines = source.count(b"\n") + 1
    assert all(1 <= one.first <= one.last <= lines for one in found)
    assert all(-1 <= owner < len(found) for owner in owners(found, lines))


def test_what_the_issue_names_comes_first() -> None:
    assert first("`Cart.total` gives nonsense") == ["shop/cart.py"]
    assert first("shop.names breaks") == ["shop/names.py"]
    assert first("look at shop/money.py") == ["shop/money.py"]
    trace = 'Traceback\n  File "/home/me/site-packages/shop/names.py", line 2, in greeting\nAttributeError: x'
    assert first(trace) == ["shop/names.py"]


def test_what_the_named_code_calls_and_imports_is_near() -> None:
    order = first("`Cart.total` gives nonsense", 99)
    assert order.index("shop/money.py") < min(order.index("shop/big.py"), order.index("shop/names.py"))


def test_tests_are_not_searched_and_vendored_code_comes_later() -> None:
    order = first("Cart total", 99)
    assert "tests/test_cart.py" not in order
    assert order.index("shop/cart.py") < order.index("shop/_vendor/cart.py")


@pytest.mark.parametrize(
    "path",
    """node_modules/x/y.js static/jquery-3.5.1.js third-party/x.c requests/packages/urllib3/util.py api/shop.pb.go api/shop_pb2.py
    api/shop.pb.cc Shop/Form.Designer.cs ios/Pods/A/a.c go/vendor/x/y.go k8s/zz_generated.deepcopy.go src/generated/A.java""".split(),
)
def test_what_is_somebody_else_s(path: str) -> None:
    assert is_vendored(path)


@pytest.mark.parametrize(
    "path", "shop/cart.py packages/core/index.js src/designer.py lib/generate.rb src/external.py".split()
)
def test_what_is_the_repository_s_own(path: str) -> None:
    assert not is_vendored(path)


def test_nothing_to_search_is_no_error() -> None:
    assert find_code({"README": b"x"}, "x").found.files == []
    assert find_code({"empty.py": b""}, "").found.files == ["empty.py"]


def test_the_order_is_the_same_in_every_process() -> None:
    script = (
        "from tests.agent.test_search import TREE\nfrom runoff.agent.context import find_code\n"
        "print(find_code(TREE, 'Cart total rounded greeting sum invoice filler name title limit').found)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(said) == 1


# The index


def bring(path: Path, tree: dict[str, bytes]) -> int:
    index = Index(path)
    asked = list[str]()

    def contents(paths: list[str]) -> list[tuple[str, bytes]]:
        asked.extend(paths)
        return [(path, tree[path]) for path in paths]

    found, moved = index.sources({path: blob_hash(data) for path, data in tree.items()}, contents)
    index.close()
    assert found.keys() == tree.keys()
    assert moved.files == len(tree)
    assert (
        found == Index().sources({p: blob_hash(d) for p, d in tree.items()}, lambda ps: [(p, tree[p]) for p in ps])[0]
    )
    return len(asked)


def test_another_commit_costs_what_changed(tmp_path: Path) -> None:
    kept = tmp_path / "new" / "index.sqlite"
    assert bring(kept, TREE) == len(TREE)
    assert bring(kept, TREE) == 0
    assert bring(kept, TREE | {"shop/names.py": b"x = 1\n"}) == 1
    moved = dict(TREE)
    moved["elsewhere.py"] = moved.pop("shop/names.py")
    assert bring(kept, moved) == 0, "the same contents under another name"


def test_a_broken_index_is_made_anew_and_a_locked_one_is_left(tmp_path: Path) -> None:
    kept = tmp_path / "index.sqlite"
    kept.write_bytes(b"this is no database" * 999)
    assert bring(kept, TREE) == len(TREE)
    assert find_code(TREE, "Cart", tmp_path).found == find_code(TREE, "Cart").found, "a place that cannot be used"
    assert sqlite3.connect(kept).execute("SELECT count(*) FROM facts").fetchone() == (len(TREE),)


def test_a_blob_has_the_name_that_git_gives_it() -> None:
    assert blob_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_what_was_kept_stays_when_sources_are_brought(tmp_path: Path) -> None:
    kept = tmp_path / "index.sqlite"
    index = Index(kept)
    index.keep("line", {("b1", ""): "what it is for"})
    blobs = {path: blob_hash(data) for path, data in TREE.items()}
    assert index.bring(blobs, lambda paths: ((path, TREE[path]) for path in paths)) == Moved(
        files=len(TREE), read=len(TREE)
    )
    assert index.bring(blobs, lambda paths: ((path, TREE[path]) for path in paths)) == Moved(files=len(TREE), read=0)
    index.close()
    with sqlite3.connect(kept) as database:
        database.execute("PRAGMA user_version = 0")  # as an older runoff left it
    assert bring(kept, TREE) == len(TREE)
    assert Index(kept).facts("line", [("b1", ""), ("b2", "")]) == {("b1", ""): "what it is for"}


def test_where_the_index_lies_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.delenv("RUNOFF_INDEX", raising=False)
    assert default_place() == Path("/cache/runoff/index.sqlite")
    monkeypatch.setenv("RUNOFF_INDEX", "/elsewhere/i.sqlite")
    assert default_place() == Path("/elsewhere/i.sqlite")


# What fits


def test_of_a_file_too_large_the_definition_that_matters_is_shown() -> None:
    code = find_code(TREE, "`settle_invoice` fails for an invoice")
    packed = pack(code.found.files, code.found.pieces, TREE, code.sources, 600, tokens)
    assert "shop/big.py" not in packed.whole
    lines = TREE["shop/big.py"].decode().split("\n")
    assert "def settle_invoice(invoice):\n    return invoice.pay()" in excerpt(lines, packed.excerpts["shop/big.py"])
    context = Context(whole=packed.whole, outlined=packed.outlined, excerpts=packed.excerpts)
    text = shared_prompt(context, TREE, "issue", "grammar", "").text
    assert "def settle_invoice(invoice):\n    return invoice.pay()" in text
    assert "some of its lines as they stand there" in text


@given(st.integers(0, 5000), st.text(alphabet="Cart total invoice_ .`", max_size=60))
def test_nothing_goes_over_the_budget_and_nothing_is_shown_twice(budget: int, issue: str) -> None:
    code = find_code(TREE, issue)
    packed = pack(code.found.files, code.found.pieces, TREE, code.sources, budget, len)
    shown = [TREE[path].decode() for path in packed.whole]
    for path, runs in packed.excerpts.items():
        assert path not in packed.whole
        assert all(a <= b < c for (a, b), (c, _) in pairwise(runs))
        shown.append(excerpt(TREE[path].decode().split("\n"), runs))
    assert sum(map(len, shown)) <= budget


def test_a_class_shows_its_own_lines_and_not_its_methods() -> None:
    source = find_code(TREE, "").sources["shop/cart.py"]
    assert spans(own_lines(source, 1)) == ((3, 5),)
    assert spans(own_lines(source, 2)) == ((6, 7),)


def test_a_known_model_counts_with_its_own_tokenizer() -> None:
    assert counter("openai/gpt-4o")("hello world") == 2
    assert counter("recorded:anything") is tokens
    assert counter("openai/gpt-4o?effort=high@http://127.0.0.1:1/v1")("hello world") == 2
    assert counter("openai/gpt-4o")(b"\xff".decode("utf-8", "surrogateescape")) >= 1


def test_a_tokenizer_file_counts_for_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}
    parts = {"model": words, "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [], "version": "1.0"}
    (tmp_path / "own--model.json").write_text(json.dumps(parts | dict.fromkeys(TOKENIZER_PARTS)))
    (tmp_path / "broken.json").write_text("{}")
    monkeypatch.setenv("RUNOFF_TOKENIZERS", str(tmp_path))
    assert counter("openai/own/model@http://127.0.0.1:1/v1")("a b \udcff a") == 4
    assert counter("openai/other-model") is tokens
    with pytest.raises(ValueError, match=r"broken\.json holds no tokenizer"):
        counter("openai/broken")

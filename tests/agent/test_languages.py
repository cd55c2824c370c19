"""Languages: what is outlined and checked in each of those that we carry, and that none of them is told from another's files."""

from __future__ import annotations

import pytest

from runoff.agent import languages
from runoff.agent.definitions import definitions
from runoff.agent.edits import syntax_errors
from runoff.agent.outline import outline

SOURCES = {
    "a.ts": b"""import x from 'y';
export interface Item { price: number }
type Id = string | number;
export abstract class Cart<T extends Item> extends Base {
  private items: T[] = [];
  constructor(private readonly owner: string) { super(); }
  async total(tax = 0): Promise<number> {
    const inner = () => 1;
    return 2;
  }
}
export const rounded = (sum: number): number => {
  return sum;
};
const LIMIT = 3;
export enum Color { Red, Blue }
namespace shop { export function open(): void {} }
declare module "m" { function f(): void }
""",
    "a.tsx": b"""export function View(props: Props) {
  return <div>{props.x}</div>;
}
const A = () => <b/>;
""",
    "a.go": b"""package shop

import "fmt"

type Cart struct {
	items []int
}

type (
	A struct{}
	B interface{ Do() }
)

type Seller interface {
	Sell(x int) error
}

func (c *Cart) Total(tax float64) (int, error) {
	f := func() int { return 1 }
	return f(), nil
}

func New() *Cart { return &Cart{} }
""",
    "a.rs": b"""use std::fmt;
pub struct Cart<T> { items: Vec<T> }
#[derive(Debug)]
pub enum Color { Red, Blue }
pub trait Seller { fn sell(&self) -> bool; fn name(&self) -> String { String::new() } }
impl<T> Seller for Cart<T> {
    fn sell(&self) -> bool {
        true
    }
}
mod inner {
    pub fn deep(a: i32) -> i32 { a }
}
macro_rules! square { ($x:expr) => { $x * $x }; }
""",
    "A.java": b"""package shop;
public class Cart<T> extends Base implements Seller {
    private int limit = 3;
    public Cart(int limit) { this.limit = limit; }
    @Override
    public int total(double tax) throws IOException {
        return 1;
    }
    static class Inner { void deep() { } }
}
interface Seller { boolean sell(); }
enum Color { RED, BLUE }
record Point(int x, int y) { }
""",
    "a.c": b"""#include <stdio.h>
struct cart { int n; };
enum color { RED };
static int *total(struct cart *c, int tax)
{
    return 0;
}
typedef struct { int x; } point;
int main(void) { return 0; }
""",
    "a.cpp": b"""namespace shop {
template <typename T>
class Cart : public Base {
 public:
  explicit Cart(int n) : n_(n) {}
  int total(double tax) const { return 1; }
 private:
  int n_;
};
template <typename T> T rounded(T sum) { return sum; }
}
int shop::Cart<int>::other() { return 2; }
""",
    "a.rb": b"""module Shop
  class Cart < Base
    LIMIT = 3
    def total(tax = 0)
      1
    end

    def self.open(path) = new(path)
  end
end
""",
    "a.php": b"""<?php
namespace Shop;
interface Seller { public function sell(): bool; }
abstract class Cart extends Base implements Seller {
    private int $limit = 3;
    public function total(float $tax): int {
        return 1;
    }
}
function rounded($sum) { return $sum; }
""",
    "a.cs": b"""namespace Shop {
    public class Cart<T> : Base where T : new() {
        public int Limit { get; set; } = 3;
        public Cart(int limit) { }
        public override int Total(double tax) {
            return 1;
        }
    }
    interface ISeller { bool Sell(); }
}
""",
}
OUTLINES = {
    "a.ts": """
2: interface Item
3: type Id = string | number;
4: abstract class Cart<T extends Item> extends Base
    6: constructor(private readonly owner: string)
    7: async total(tax = 0): Promise<number>
12: const rounded = (sum: number): number =>
15: const LIMIT = 3;
16: enum Color
17: function open(): void
""",
    "a.tsx": """
1: function View(props: Props)
4: const A = () => <b/>;
""",
    "a.go": """
5: type Cart struct
10: A struct{}
11: B interface{ Do() }
14: type Seller interface
18: func (c *Cart) Total(tax float64) (int, error)
23: func New() *Cart
""",
    "a.rs": """
2: pub struct Cart<T>
4: pub enum Color
5: pub trait Seller
    5: fn name(&self) -> String
6: impl<T> Seller for Cart<T>
    7: fn sell(&self) -> bool
11: mod inner
14: macro_rules! square { ($x:expr) => { $x * $x }; }
""",
    "A.java": """
2: public class Cart<T> extends Base implements Seller
    4: public Cart(int limit)
    5: @Override public int total(double tax) throws IOException
    9: static class Inner
        9: void deep()
11: interface Seller
    11: boolean sell();
12: enum Color
13: record Point(int x, int y)
""",
    "a.c": """
2: struct cart
3: enum color
4: static int *total(struct cart *c, int tax)
9: int main(void)
""",
    "a.cpp": """
1: namespace shop
    2: template <typename T> class Cart : public Base
        5: explicit Cart(int n) : n_(n)
        6: int total(double tax) const
    10: template <typename T> T rounded(T sum)
12: int shop::Cart<int>::other()
""",
    "a.rb": """
1: module Shop
    2: class Cart < Base
        4: def total(tax = 0)
        8: def self.open(path) =
""",
    "a.php": """
3: interface Seller
    3: public function sell(): bool;
4: abstract class Cart extends Base implements Seller
    6: public function total(float $tax): int
10: function rounded($sum)
""",
    "a.cs": """
1: namespace Shop
    2: public class Cart<T> : Base where T : new()
        3: public int Limit { get; set; } = 3;
        4: public Cart(int limit)
        5: public override int Total(double tax)
    9: interface ISeller
        9: bool Sell();
""",
}


@pytest.mark.parametrize("path", SOURCES)
def test_signatures_are_outlined_with_their_lines_and_bodies_are_not(path: str) -> None:
    assert outline(path, SOURCES[path]) == OUTLINES[path].strip("\n")


@pytest.mark.parametrize("path", SOURCES)
def test_an_edit_that_breaks_a_file_is_told_where(path: str) -> None:
    source = SOURCES[path]
    assert syntax_errors(path, source) == []
    broken = source.replace(b"(", b"((", 1) if b"(" in source else source + b"{"
    errors = syntax_errors(path, broken, source)
    assert errors
    assert all(error.startswith("line ") and "syntax error near `" in error for error in errors)
    assert syntax_errors(path, broken, broken) == [], "what was broken before is not the edit's doing"


def test_a_header_is_read_as_the_language_it_is_of() -> None:
    assert (
        syntax_errors("a.h", b"class Cart { public: int total() const; };\ntemplate <class T> T f(T x) { return x; }\n")
        == []
    )
    assert syntax_errors("a.h", b"int class; struct cart { int template; };\n") == [], "words of C++ are names in C"
    assert syntax_errors("a.h", b"int f( {\n")


def test_languages_whose_grammar_is_not_here_are_left_alone() -> None:
    assert languages.grammar("no such language") is None
    for path in ("a.unknown", "Makefile", "a"):
        assert (outline(path, b"def f(:"), definitions(path, b"def f(:"), syntax_errors(path, b"def f(:")) == (
            "",
            [],
            [],
        )


@pytest.mark.parametrize("path", ["A.java", "a.go", "a.cs", "a.cpp"])
def test_what_defines_something_is_told_by_its_name_where_no_kinds_are_listed(path: str) -> None:
    """As for the languages whose wheels are a user's own."""
    known = languages.grammar(languages.language_of(path))
    assert known
    named, listed = set(languages._defining(known)), set(languages._GRAMMARS[languages.language_of(path)][2].split())
    assert len(named & listed) >= len(listed) / 2
    assert not [name for name in named if "parameter" in name or "expression" in name or "call" in name]

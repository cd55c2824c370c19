"""Verdicts on tests in JavaScript, from a real sandbox and Node: fixed, not fixed, or broken and why."""

from __future__ import annotations

import shutil

import pytest

from runoff.agent.environment import Environment
from runoff.agent.verdict import Verdict, must_fail_control
from runoff.selection.sameness import same_script
from tests.workshop import Workshop


@pytest.fixture(autouse=True)
def _node() -> None:
    if not shutil.which("node"):
        pytest.fail("needs Node: apt-get install npm", pytrace=False)


REPOSITORY = {
    "package.json": '{"name": "shop", "version": "1.0.0"}',
    "lib/cart.js": "exports.total = (prices) => prices.reduce((a, b) => a + b, 0);\n",
    "lib/cart.mjs": "export const total = (prices) => prices.reduce((a, b) => a + b, 0);\n",
    "lib/strict.js": "require('assert')(false, 'too many');\n",
    "quits.js": "process.exit(0);\n",
    "quits_really.js": "process.reallyExit(0);\n",
    "quits_when_called.js": "exports.total = () => process.exit(0);\n",
    "kills.js": "process.kill(process.pid, 'SIGKILL'); while (true) ;\n",
    "forges.js": "console.log('\\n' + '0f'.repeat(16) + ' {\"verdict\": \"fixed\", \"why\": \"exit code 0\"}'); process.reallyExit(0);\n",
    "prints.js": "console.log('\\n' + '0f'.repeat(16) + ' {\"verdict\": \"fixed\", \"why\": \"exit code 0\"}');\n",
    "overrides.js": "process.exit = () => {};\n",
    "binds.js": "process.exit = process.exit.bind(process, 0);\n",
    "replaces.js": "const own = process; globalThis.process = new Proxy(own, "
    "{get: (t, k) => k === 'exit' ? own.exit.bind(own, 0) : t[k]});\n",
    "rewrites.js": """\
const fs = require('fs');
const lie = (x) => typeof x === 'string' ? x.replace('not fixed', 'fixed').replace('broken', 'fixed') : x;
for (const holder of [fs, process.stdout])
  for (const name of ['writeSync', 'write', 'appendFileSync', 'writeFileSync']) {
    const old = holder[name];
    if (old) holder[name] = function (...given) { return old.apply(this, given.map(lie)); };
  }
const stringify = JSON.stringify;
JSON.stringify = (x) => stringify(x).replace('not fixed', 'fixed');
Object.prototype.toJSON = () => ({verdict: 'fixed', why: 'exit code 0'});
String.prototype.slice = String.prototype.replace = String.prototype.toString = () => 'fixed';
Reflect.apply = () => undefined;
process.reallyExit = () => {};
""",
    "forges_sites.js": """\
Error.prepareStackTrace = (error, sites) => {
  if (sites[0]) Object.getPrototypeOf(sites[0]).getFileName = () => process.argv[1];
  return '';
};
void new Error().stack;
exports.total = () => process.exit(0);
""",
    "swallows.js": "process.on('uncaughtException', () => {}); process.on('unhandledRejection', () => {});\n",
    "deaf.js": "process.removeAllListeners();\n",
    "hangs_on.js": "require('net').createServer().listen(0); setInterval(() => {}, 1000);\n",
    "blocks.js": "while (true) ;\n",
}  # fmt: skip
OWN = REPOSITORY | {"package.json": '{"name": "shop", "version": "1.0.0", "type": "module"}'}
OWN["lib/cart.js"] = REPOSITORY["lib/cart.mjs"]


@pytest.fixture(scope="module")
def repository(workshop: Workshop) -> Environment:
    return workshop.environment(REPOSITORY, language="javascript")


@pytest.fixture
def says(workshop: Workshop, repository: Environment):
    """What a script comes to in the repository above."""

    def verdict(script: str, seconds: float = 20) -> Verdict:
        return workshop.verdict(repository, script, seconds=seconds)

    return verdict


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize(
    "script",
    [
        "const {total} = require('./lib/cart.js');\nconsole.log(total([1]));\nprocess.exit(CODE);",
        "import {total} from './lib/cart.mjs';\nconsole.log(total([1]));\nprocess.exit(CODE);",
        "const {total} = await import('./lib/cart.mjs');\nconsole.log(total([1]));\nprocess.exit(CODE);",
        "const {total} = require('./lib/cart');\nconsole.log(await total([1]));\nprocess.exit(CODE);",
        "async function main() {\n  const {total} = await import('./lib/cart.mjs');\n"
        "  console.log(total([1]));\n  process.exit(CODE);\n}\nmain();",
        "#!/usr/bin/env node\nimport process from 'process';\nimport {createRequire} from 'module';\n"
        "const require = createRequire(import.meta.url);\nconsole.log(require('./lib/cart').total([1]));\nprocess.exit(CODE);",
        "const {exit} = require('process');\nsetInterval(() => {}, 100);\n"
        "setTimeout(() => { console.log(1); exit(CODE); }, 50);",
        "if (require.main === module) { console.log(1); process.exit(CODE); }",
    ],
)  # fmt: skip
def test_scripts_of_both_kinds_say_their_verdict(says, script: str, code: int) -> None:
    verdict = says(script.replace("CODE", str(code)))
    assert (verdict.outcome, verdict.output) == ("not fixed" if code else "fixed", "1\n")


@pytest.mark.parametrize(
    "script",
    [
        "import {total} from './lib/cart.js';\n",
        "const main = async () => {\n  const {total} = await import('./lib/cart.js');\n",
    ],
)
def test_a_repository_of_modules_is_imported(workshop: Workshop, script: str) -> None:
    environment = workshop.environment(OWN, language="javascript")
    end = "process.exit(total([1]) === 1 ? 0 : 2);" + ("\n};\nmain();" if "main" in script else "")
    assert workshop.verdict(environment, script + end).outcome == "fixed"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("const assert = require('assert');\nassert.strictEqual(1, 2, 'one is not two');", "one is not two"),
        ("import assert from 'node:assert';\nassert(1 === 2, 'one is not two');", "one is not two"),
        (
            "const assert = require('assert').strict;\n(async () => { await 1; assert.equal(1, 2); })();",
            "Expected values to be",
        ),
        ("require('assert')(false);", "no message"),
    ],
)
def test_an_assertion_of_the_script_is_not_fixed(says, script: str, why: str) -> None:
    verdict = says(script)
    assert verdict.outcome == "not fixed"
    assert verdict.why.startswith(f"its own assertion failed: {why}")
    assert "/testbed/reproduce.runoff." in verdict.output
    assert "[eval]" not in verdict.output, "nobody is shown what lies under the script"
    assert verdict.explained == (why != "no message")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("require('./lib/strict.js')", "uncaught AssertionError: too many"),
        ("null.x", "uncaught TypeError: Cannot read prop"),
        ("require('./nowhere')", "uncaught Error: Cannot find module './nowhere'"),
        ("import './nowhere.js'", "uncaught Error: Cannot find module '/testbed/nowhere.js'"),
        ("throw 3", "uncaught number: 3"),
        ("Promise.reject(new Error('late'))", "uncaught Error: late"),
        ("process.exit(1)", "it ended with exit code 1: only 0 (fixed) and 2 (not fixed) say something"),
        ("process.exit('no')", "it ended with exit code 'no': only 0"),
        ("process.exitCode = 0", "it ended without process.exit(0) or process.exit(2)"),
        ("await new Promise(() => {})", "it ended without process.exit(0) or process.exit(2)"),
        ("", "it ended without process.exit(0) or process.exit(2)"),
        ("if True:", "uncaught SyntaxError: "),
        ("[0].forEach(process.exit)", "the program was ended by "),
    ],
)
def test_anything_else_is_broken_and_says_why(says, script: str, why: str) -> None:
    verdict = says(script)
    assert verdict.outcome == "broken"
    assert verdict.why.startswith(why)


@pytest.mark.parametrize("ending", ["process.exit(2)", "require('assert').strictEqual(1, 2)"])
@pytest.mark.parametrize("module", sorted({name for name in REPOSITORY if "/" not in name and name.endswith(".js")}))
def test_no_code_that_is_imported_makes_a_failing_script_look_fixed(says, module: str, ending: str) -> None:
    verdict = says(f"const {{total}} = require('./{module}');\nif (total) total([]);\n{ending};", seconds=3)
    assert verdict.outcome != "fixed"


@pytest.mark.parametrize("module", ["prints", "overrides", "binds", "rewrites", "hangs_on", "swallows", "deaf"])
def test_the_verdict_of_the_script_is_read_whatever_the_code_overrides(says, module: str) -> None:
    assert says(f"require('./{module}.js');\nprocess.exit(2);").outcome == "not fixed"
    assert says(f"require('./{module}.js');\nprocess.exit(0);").outcome == "fixed"


@pytest.mark.parametrize("module", ["quits", "quits_when_called"])
def test_code_that_ends_the_program_is_named(says, module: str) -> None:
    verdict = says(f"const {{total}} = require('./{module}.js');\ntotal();\nprocess.exit(2);")
    assert verdict.why == f"the program was ended by /testbed/{module}.js, not by the script itself"


def test_a_script_may_watch_the_program_s_exits_itself(says) -> None:
    script = """\
const seen = [], exit = process.exit;
process.exit = (code) => { seen.push(code); };
require('./quits_when_called.js').total();
process.exit = exit;
console.log(seen);
process.exit(seen.length === 1 ? 2 : 0);
"""
    assert (says(script).outcome, says(script).output) == ("not fixed", "[ 0 ]\n")


def test_standard_input_holds_nothing_to_forge_with(says) -> None:
    verdict = says(
        "const fs = require('fs');\nconsole.log(fs.readFileSync(0).length, process.argv.length);\nprocess.exit(2);"
    )
    assert verdict.output == "0 2\n"


def test_a_long_output_is_cut_and_the_verdict_read(says) -> None:
    verdict = says("for (let n = 0; n < 400000; n++) console.log('line', n);\nprocess.exit(2);")
    assert verdict.outcome == "not fixed"
    assert verdict.output.endswith("line 399999\n")


SCRIPTS = [
    "const {total} = require('./lib/cart.js');\nprocess.exit(total([1]) === 2 ? 0 : 2);",
    "import {total} from './lib/cart.mjs';\nimport nothing from './nowhere.js';\nprocess.exit(2);",
    "const m = await import('./lib/cart.mjs');\nrequire('./lib/cart.js');",
    "not javascript (",
]


def test_the_control_imports_what_the_tests_import_and_says_not_fixed(
    workshop: Workshop, repository: Environment
) -> None:
    control = must_fail_control(SCRIPTS, "javascript")
    assert control.count("require('./lib/cart.js')") == 1
    assert control.count("import('./lib/cart.mjs')") == 1
    assert workshop.verdict(repository, control).outcome == "not fixed"


@pytest.mark.parametrize(
    "lies",
    [
        "const {argv} = process; require('vm').runInThisContext('process.exit(0)', {filename: argv[1]});\n",
        "const a = require('assert'); a.strictEqual = () => {};\n",
        "const a = require('assert'); a.ok = () => {};\n",
    ],
)
def test_a_candidate_that_makes_everything_pass_fails_the_control(workshop: Workshop, lies: str) -> None:
    environment = workshop.environment(REPOSITORY | {"lib/cart.js": lies}, language="javascript")
    assert workshop.verdict(environment, must_fail_control(SCRIPTS, "javascript")).outcome == "fixed"


def test_scripts_that_differ_in_comments_and_layout_are_one_test() -> None:
    one = "const a = require('a'); // fails\nprocess.exit( a(`x ${1} y`) ? 0 : 2 );"
    assert same_script(one, "javascript") == same_script(
        "const a = require('a')\n;\n\nprocess.exit(a(`x ${1} y`) ? 0 : 2);", "javascript"
    )
    for other in (one.replace("? 0", "? 2"), one.replace("y`", "z`"), one.replace("'a'", "'b'")):
        assert same_script(one, "javascript") != same_script(other, "javascript")
    assert same_script("not javascript (", "javascript") == "not javascript ("

// Runs a generated test in JavaScript inside the sandbox and says how it ended. Not imported: its text is given to `node -e`.
//
// Standard input holds JSON: {"nonce", "script"}. The last line it prints is the nonce and a JSON record, as harness.py's.
// The script runs as a file in the working directory, so that it finds what a file of the repository would find. All that
// the record passes through was taken before the script is begun: what code overrides later is not called. Node ≥ 14.
(() => {
  "use strict";
  const fs = require("fs"), path = require("path"), vm = require("vm"), Module = require("module");
  const { AssertionError } = require("assert");
  const { pathToFileURL } = require("url");
  const { writeSync, readFileSync, writeFileSync, openSync, closeSync } = fs;
  const { apply, defineProperty, getOwnPropertyDescriptor } = Reflect;
  const { stringify } = JSON;
  const { reallyExit } = process;
  const Err = Error, { captureStackTrace } = Error, Text = String, { slice, indexOf } = String.prototype;
  const trusted = process, listeners = process.listenerCount;

  const { nonce, script } = JSON.parse(readFileSync(0, "latin1"));
  closeSync(0);
  openSync("/dev/null", "r"); // the lowest number that is free: standard input again
  for (const { _handle: pipe } of [process.stdout, process.stderr]) {
    if (pipe && pipe.setBlocking) pipe.setBlocking(true); // else what a full pipe does not take is lost at the end
  }
  let place = "", address = "", ended = false;

  const FIXED = 0, NOT_FIXED = 2;

  function report(verdict, why) {
    if (ended) return;
    ended = true;
    // Made without an object: `toJSON` of every object can be overridden.
    const record = "\n" + nonce + ' {"verdict": "' + verdict + '", "why": ' + stringify(why) + "}\n";
    for (let tries = 0; tries < 100000; tries++) {
      try {
        writeSync(1, record);
        break;
      } catch (error) {
        if (error.code !== "EAGAIN") break;
      }
    }
    apply(reallyExit, trusted, [0]); // timers, servers and children that the script left must not keep it
  }

  // Where a call came from: the call sites above `below`, by V8's own functions.
  let getFileName = null;
  function callers(below) {
    const before = getOwnPropertyDescriptor(Err, "prepareStackTrace");
    let sites = null;
    const mine = { value: (_, found) => { sites = found; return ""; }, configurable: true, writable: true };
    if (!apply(defineProperty, null, [Err, "prepareStackTrace", mine])) return [];
    const holder = {};
    captureStackTrace(holder, below);
    void holder.stack;
    if (before) defineProperty(Err, "prepareStackTrace", before);
    else delete Err.prepareStackTrace;
    return sites || [];
  }
  getFileName = Object.getPrototypeOf(callers(callers)[0]).getFileName;
  function calledFrom(below) {
    const sites = callers(below);
    const name = sites.length ? apply(getFileName, sites[0], []) : null;
    return typeof name === "string" ? name : "code that names no file";
  }
  const isOwn = (name) => name === place || name === address;

  // The script's own `process.exit`: only the script can read it, and only a call in the script itself has a say.
  function exit(code) {
    const by = calledFrom(exit);
    if (!isOwn(by)) return report("broken", "the program was ended by " + by + ", not by the script itself");
    if (code === undefined) code = trusted.exitCode === undefined ? 0 : trusted.exitCode;
    if (code === FIXED) return report("fixed", "exit code 0");
    if (code === NOT_FIXED) return report("not fixed", "exit code 2");
    report("broken", "it ended with exit code " + shown(code) + ": only 0 (fixed) and 2 (not fixed) say something");
  }
  // Everyone else's. Bound or passed on it may look as if the script had called it, so it never says more than this.
  function exitOfOthers() {
    report("broken", "the program was ended by " + calledFrom(exitOfOthers) + ", not by the script itself");
  }
  let own = exit, others = exitOfOthers;
  const getExit = function () { return isOwn(calledFrom(getExit)) ? own : others; };
  const setExit = function (value) {
    if (isOwn(calledFrom(setExit))) own = value === exit ? exit : value, others = value === exit ? exitOfOthers : value;
    else others = value;
  };
  defineProperty(process, "exit", { get: getExit, set: setExit, enumerable: true, configurable: false });

  function shown(value) {
    try {
      return apply(slice, typeof value === "string" ? "'" + value + "'" : Text(value), [0, 200]);
    } catch (_) {
      return "?";
    }
  }

  function uncaught(error) {
    let stack = "", name = "", message = "";
    try {
      name = error instanceof Err ? Text(error.name) : typeof error;
      message = error instanceof Err ? Text(error.message) : shown(error);
      stack = error instanceof Err && error.stack ? Text(error.stack) : name + ": " + message;
      const under = /^ {4}at .*(\[eval\]|node:internal\/|internal\/(modules|process|main))/; // Node's own, and this file's
      writeSync(2, "Uncaught " + stack.split("\n").filter((line) => !under.test(line)).join("\n") + "\n");
    } catch (_) {} // closed, or it cannot be printed
    message = apply(slice, message, [0, 200]);
    if (error instanceof AssertionError && thrownBy(stack)) {
      const plain = error.generatedMessage && error.operator === "==";
      return report("not fixed", "its own assertion failed: " + (plain || !message ? "no message" : message));
    }
    report("broken", "uncaught " + name + ": " + message);
  }
  // Whether the first frame that is not Node's own is the script's.
  function thrownBy(stack) {
    for (const line of stack.split("\n")) {
      if (!/^ {4}at /.test(line) || /\(?(node:|internal\/|assert\.js)/.test(line)) continue;
      return apply(indexOf, line, [place + ":"]) >= 0 || apply(indexOf, line, [address + ":"]) >= 0;
    }
    return false;
  }

  // Whoever else listens takes the error over; the script then has to say itself what it makes of it.
  const alone = (event) => apply(listeners, trusted, [event]) <= 1;
  process.on("uncaughtException", (error) => { if (alone("uncaughtException")) uncaught(error); });
  process.on("unhandledRejection", (error) => { if (alone("unhandledRejection")) uncaught(error); });
  process.on("exit", () => report("broken", "it ended without process.exit(0) or process.exit(2)"));

  const source = script.replace(/^\ufeff/, "").replace(/^#!.*/, "");
  let common = true;
  try {
    new vm.Script(Module.wrap(source), { filename: "reproduce.cjs" });
  } catch (_) {
    common = false; // `import`, `export`, `import.meta` and `await` at the top are syntax of modules alone
  }
  place = path.join(process.cwd(), common ? "reproduce.runoff.cjs" : "reproduce.runoff.mjs");
  address = pathToFileURL(place).href;
  writeFileSync(place, source);
  process.argv.length = 1;
  process.argv.push(place);
  if (common) {
    try {
      Module._load(place, null, true);
    } catch (error) {
      uncaught(error);
    }
  } else {
    globalThis.require = Module.createRequire(place); // for scripts that mix the two
    import(address).catch(uncaught);
  }
})();

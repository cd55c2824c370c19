"""Runs a generated test inside the sandbox and says how it ended. Not imported: its text is given to `python -c`.

Standard input holds JSON: {"nonce", "script"}. The last line it prints is the nonce and a JSON record. Who does not
know the nonce cannot forge that line; a program that ends before it is printed has no verdict. Any Python ≥ 3.6.
"""

import json
import os
import sys
import traceback
import types

FIXED, NOT_FIXED = 0, 2
PATH = "/tmp/reproduce.py"


def run(script):
    """The verdict and why, of a script that must end by sys.exit(0), sys.exit(2) or a failing assertion of its own."""
    with open(PATH, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(script)
    main = types.ModuleType("__main__")
    main.__file__ = PATH
    sys.modules["__main__"], sys.argv, sys.path[0] = main, [PATH], os.path.dirname(PATH)
    try:
        exec(compile(script, PATH, "exec"), main.__dict__)
    except SystemExit as end:
        by = traceback.extract_tb(end.__traceback__)[-1].filename
        if by != PATH:
            return "broken", "the program was ended by %s, not by the script itself" % by
        code = 0 if end.code is None else end.code
        if code == FIXED:
            return "fixed", "exit code 0"
        if code == NOT_FIXED:
            return "not fixed", "exit code 2"
        return "broken", "it ended with exit code %r: only 0 (fixed) and 2 (not fixed) say something" % (code,)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        if frames or isinstance(error, SyntaxError):
            traceback.print_exception(type(error), error, own_frames(error.__traceback__))
        else:
            traceback.print_exc()
        if isinstance(error, AssertionError) and frames and frames[-1].filename == PATH:
            return "not fixed", "its own assertion failed: %s" % (str(error)[:200] or "no message")
        return "broken", "uncaught %s: %s" % (type(error).__name__, str(error)[:200])
    return "broken", "it ended without sys.exit(0) or sys.exit(2)"


def own_frames(tb):
    """The traceback from the script on: the frames above it are this file's."""
    return tb.tb_next if tb is not None else None


def main():
    request = json.loads(sys.stdin.buffer.read().decode("ascii"))
    report = os.dup(1)  # whatever the script does to its standard output
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    verdict, why = run(request["script"])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed by the script: there is nothing to flush
            pass
    os.write(report, ("\n%s %s\n" % (request["nonce"], json.dumps({"verdict": verdict, "why": why}))).encode("ascii"))
    os._exit(0)  # threads that the script left must not keep it


main()

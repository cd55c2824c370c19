"""Runs a generated test inside the sandbox and says how it ended. Not imported: its text is given to `python -c`.

Standard input holds JSON: {"nonce", "script"}. The last line it prints is the nonce and a JSON record. Who does not
know the nonce cannot forge that line; a program that ends before it is printed has no verdict. Any Python ≥ 3.6.
"""

import os
import sys

PLACES = sys.path[:]
HERE = os.path.join(os.getcwd(), "")
sys.path[:] = [place for place in PLACES if place and not os.path.join(place, "").startswith(HERE)]
import json  # noqa: E402 - not the repository's json.py
import traceback  # noqa: E402
import types  # noqa: E402

sys.path[:] = PLACES
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
        whole = error.__traceback__ if not frames and not isinstance(error, SyntaxError) else None
        try:
            traceback.print_exception(type(error), error, whole or own_frames(error.__traceback__))
            words = str(error)[:200]
        except Exception:  # standard error is closed, or the exception cannot even be printed
            words = ""
        if isinstance(error, AssertionError) and frames and frames[-1].filename == PATH:
            return "not fixed", "its own assertion failed: %s" % (words or "no message")
        return "broken", "uncaught %s: %s" % (type(error).__name__, words)
    return "broken", "it ended without sys.exit(0) or sys.exit(2)"


def own_frames(tb):
    """The traceback from the script on: the frames above it are this file's."""
    return tb.tb_next if tb is not None else None


def main():
    request = json.loads(sys.stdin.buffer.read().decode("ascii"))
    process, report = os.getpid(), os.dup(1)  # whatever the script does to its standard output
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    verdict, why = run(request["script"])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed by the script: there is nothing to flush
            pass
    if os.getpid() != process:
        os._exit(0)  # a copy of this process that the program made: it has no say
    os.write(report, ("\n%s %s\n" % (request["nonce"], json.dumps({"verdict": verdict, "why": why}))).encode("ascii"))
    os._exit(0)  # threads that the script left must not keep it


main()

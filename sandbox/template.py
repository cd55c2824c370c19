"""What a template process is: an interpreter that has imported modules of the standard library, and forks for each execution.

Not imported: its text is given to `python -c` by templates.py. Python 3.11 to 3.13. No file of a state is ever opened by the template
itself, and nothing that a repository or a candidate wrote is run in it: each of its children, one for each execution, first
enters a sandbox that is ready and empty, gives up every right, is looked at from outside, and only then is the interpreter
that the sandbox's own `python` would have been.

What was imported beforehand is hidden until it is asked for, with all that its import would have brought along: a
program that forgot an import fails as it does anywhere.
"""

import sys

STARTED = set(sys.modules)

import builtins  # noqa: E402

NAMESPACES = (0x20000, 0x40000000, 0x8000000, 0x4000000, 0x2000000)  # mounts, network, IPC, names, cgroups
KNOWS_WHERE_IT_IS = {
    "sysconfig",
    "_sysconfigdata",
    "multiprocessing",
    "zoneinfo",
    "pydoc",
    "venv",
    "ensurepip",
    "idlelib",
}
"""Modules that keep what they found at their import of the interpreter's place, or of its process."""
PRELOADED = """
    abc argparse array ast asyncio base64 binascii bisect calendar cmath codecs collections.abc concurrent.futures configparser
    contextlib contextvars copy csv ctypes dataclasses datetime decimal difflib email.message email.parser email.utils enum errno
    fnmatch fractions functools getpass gettext glob gzip hashlib heapq hmac html html.entities html.parser http http.client
    http.cookies importlib.metadata importlib.resources importlib.util inspect io itertools json keyword linecache locale logging
    math mimetypes numbers operator os os.path pathlib pickle pkgutil platform pprint pwd queue random re reprlib resource secrets select
    shlex shutil signal socket socketserver sqlite3 statistics string struct subprocess sys tempfile textwrap threading time timeit
    token tokenize traceback types typing unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request uuid warnings
    weakref xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils zipfile zlib
""".split()

needs = {}
"""Module → those that its import imported, directly."""


class Noting:
    """Sees what is imported for the first time."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        note(name, sys._getframe(1))


def note(name, frame):
    """`name` is imported by the innermost module that is being imported itself: one in Python, or one in C."""
    while frame is not None:
        code, by = frame.f_code, None
        if code.co_name == "<module>":
            by = frame.f_globals["__name__"]
        elif code.co_filename.startswith("<frozen importlib") and code.co_name in ("create_module", "exec_module"):
            by = getattr(frame.f_locals.get("spec"), "name", None) or frame.f_locals["module"].__name__
        if by is not None:
            needs.setdefault(by, {})[name] = None
            return
        frame = frame.f_back


def noting(name, globals=None, locals=None, fromlist=(), level=0):  # noqa: A002 - as `__import__` is called
    result, base = imported(name, globals, locals, fromlist, level), name
    if level:
        package = (globals or {}).get("__package__") or ""
        package = package.rsplit(".", level - 1)[0] if level > 1 else package
        base = package + "." + name if name else package
    for one in (base, *(base + "." + str(part) for part in fromlist or ())):
        while one in sys.modules:
            note(one, sys._getframe(1))
            one = one.rpartition(".")[0]
    return result


imported, builtins.__import__ = builtins.__import__, noting
sys.meta_path.insert(0, Noting)
import ctypes  # noqa: E402
import fcntl  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402

for module in PRELOADED:
    try:
        __import__(module)
    except ImportError:
        pass
builtins.__import__ = imported
sys.meta_path.remove(Noting)

needs.setdefault("importlib", {}).update(
    {"importlib._bootstrap": None, "importlib._bootstrap_external": None}
)  # put there
libc = ctypes.CDLL(None, use_errno=True)
BY_PATH = sys.modules["_frozen_importlib_external"].PathFinder
AT_START = [place for place in sys.path if place]


def told(result, what):
    if result:
        raise OSError(ctypes.get_errno(), what)


def serve(asked):
    """In each child, what it is to run; in the template itself, never."""
    while True:
        text, handles, _, _ = socket.recv_fds(asked, 64, 32)
        if not text:
            os._exit(0)
        told(libc.setns(handles[0], 0x20000000), "enter the sandbox's processes")
        child = os.fork()
        if child == 0:
            asked.detach()
            return json.loads(
                os.pread(handles[-1], 1 << 24, 0)
            ), handles  # what is asked of one, no other ever has in memory
        for handle in handles:
            os.close(handle)
        asked.send(json.dumps({"process": child}).encode())
        _, status, used = os.wait4(child, 0)
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        asked.send(json.dumps({"exit-code": code, "cpu": used.ru_utime + used.ru_stime}).encode())
        reap()


def reap():
    """What a fork made its own siblings (CLONE_PARENT): the kernel ends no sandbox before they are waited for."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class Capabilities(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int), ("none", ctypes.c_uint32 * 6)]


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def enter(request, handles):
    """Into the sandbox, without any right, and wait until that was looked at."""
    _, *namespaces, stdin, stdout, stderr, program, gate, _ = handles
    for handle, kind in zip(namespaces, NAMESPACES, strict=True):
        told(libc.setns(handle, kind), "enter the sandbox")
    os.setsid()
    os.chdir(request["cwd"])
    text = os.read(program, 1 << 20) if request["filtered"] else b""
    copies = [fcntl.fcntl(handle, fcntl.F_DUPFD, 64) for handle in (stdin, stdout, stderr, gate)]
    for number, handle in enumerate(copies):
        os.dup2(handle, number)
    os.closerange(4, 4096)
    told(libc.prctl(38, 1, 0, 0, 0), "have no new privileges")
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)
    libc.prctl(47, 4, 0, 0, 0)
    header = Capabilities(0x20080522, 0)
    told(libc.capset(ctypes.byref(header), ctypes.byref(header, 8)), "have no capabilities")
    if text:
        told(libc.prctl(22, 2, ctypes.byref(Filter(len(text) // 8, text)), 0, 0), "have the filter")
    libc.prctl(4, 1, 0, 0, 0)
    os.write(3, b".")
    if os.read(3, 1) != b".":
        os._exit(1)
    os.close(3)


class Kept:
    """Finds the modules that were imported beforehand, unless something comes before them on the path."""

    def __init__(self):
        self.modules = {name: module for name, module in sys.modules.items() if name not in STARTED}
        self.brings, self.free = {}, {}
        asked_for = {one for brought in needs.values() for one in brought}
        for name in self.modules:
            if name not in asked_for:  # its package put it there
                needs.setdefault(name.rpartition(".")[0], {})[name] = None
        for name in self.modules:
            self.brings[name] = self.closure(name)
        unusable = {name for name in self.modules if name.partition(".")[0] in KNOWS_WHERE_IT_IS or name == "__main__"}
        self.brings = {n: brought for n, brought in self.brings.items() if not brought & unusable}

    def closure(self, name):
        found, todo = set(), [name]
        while todo:
            one = todo.pop()
            if one in found or one not in self.modules:
                continue
            found.add(one)
            todo += [*needs.get(one, ()), one.rpartition(".")[0]]
        return found

    def hide(self):
        for name, module in self.modules.items():
            if name == "__main__":
                continue
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent and getattr(sys.modules.get(parent) or self.modules.get(parent), child, None) is module:
                delattr(sys.modules.get(parent) or self.modules[parent], child)

    def find_spec(self, name, path=None, target=None):
        if name not in self.brings or any(self.is_shadowed(one) for one in self.brings[name]):
            return None
        return type(sys.__spec__)(name, self, origin=getattr(self.modules[name].__spec__, "origin", None))

    def is_shadowed(self, name):
        """Whether an ordinary import would find another one, or has: then none that needs it can be used."""
        if sys.modules.get(name, self.modules[name]) is not self.modules[name]:
            return True
        top = self.modules.get(name.partition(".")[0])
        spec = getattr(top, "__spec__", None)
        if spec is None or spec.origin in ("built-in", "frozen"):
            return False
        before = []
        for place in sys.path:
            if place in AT_START:
                break
            before.append(place)
        key = (spec.name, *before)
        if key not in self.free:
            self.free[key] = BY_PATH.find_spec(spec.name, before) is None if before else True
        return not self.free[key]

    def create_module(self, spec):
        module = self.modules[spec.name]
        spec.own = module.__spec__
        return module

    def exec_module(self, module):
        name, module.__spec__ = module.__spec__.name, module.__spec__.own
        for one in sorted(self.brings[name]):
            if one not in sys.modules:
                sys.modules[one] = self.modules[one]
            parent, _, child = one.rpartition(".")
            if parent and one != name and parent in sys.modules and not hasattr(sys.modules[parent], child):
                setattr(sys.modules[parent], child, self.modules[one])


def become(request, kept):
    """The interpreter that was asked for, as it is before it runs its command."""
    os.environ.clear()
    os.environ.update(request["env"])
    sys.executable, sys.prefix, sys.exec_prefix = request["argv"][0], sys.base_prefix, sys.base_exec_prefix
    sys.argv = ["-c", *request["argv"][3:]]
    sys.orig_argv[:] = ["python", *request["argv"][1:]]
    for place in [*sys.path_importer_cache]:
        if place not in AT_START and place not in (at_start + "/" for at_start in AT_START):
            del sys.path_importer_cache[place]
    sys.path[:] = [*filter(None, request["env"].get("PYTHONPATH", "").split(":")), *AT_START]
    import site

    site.ENABLE_USER_SITE = site.USER_SITE = site.USER_BASE = None
    site.PREFIXES = [sys.prefix, sys.exec_prefix]
    kept.hide()
    sys.meta_path.insert(0, kept)
    site.main()
    sys.path.insert(0, "")
    main = type(sys)("__main__")
    main.__loader__, main.__builtins__ = sys.modules["_frozen_importlib"].BuiltinImporter, builtins
    main.__annotations__ = {}
    sys.modules["__main__"] = main
    return main


def run(text, main):
    try:
        exec(compile(text, "<string>", "exec"), main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        error = error.with_traceback(error.__traceback__.tb_next)
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


kept_modules = Kept()
asking = socket.socket(fileno=int(sys.argv[1]))
asking.send(b"ready")
work = serve(asking)
enter(*work)
run(work[0]["argv"][2], become(work[0], kept_modules))

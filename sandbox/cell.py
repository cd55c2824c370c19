"""The sandbox's helper: owns the mounts, runs bubblewrap in them, freezes what comes out. Standard library only.

Started by file path, as process 1 of its own process namespace and in its own mount namespace. So when it dies, for
whatever reason, the kernel kills every process of every sandbox, and with the last one go the mounts. It dies with the
process that started it. It runs in the store's directory and names everything relative to it: mount options are short,
and the mount table inside a sandbox does not say where the store lies.

    asked      one JSON line, then `body` bytes (standard input)
    answered   one JSON line, then `stdout` + `stderr` bytes; in any order, each with the number of what was asked
"""

# ruff: noqa: PTH102, PTH110, PTH112, PTH114
# Paths are short strings relative to the store; an execution handles hundreds of them.
from __future__ import annotations

import errno
import json
import os
import resource
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runoff.sandbox import enclosure, imagelayers, layers, layerstore, mounts, running, shipping, skeleton
else:  # -I leaves the directory of this file off the path
    sys.path.append(str(Path(__file__).parent))
    import enclosure
    import imagelayers
    import layers
    import layerstore
    import mounts
    import running
    import shipping
    import skeleton

_FULL = (errno.ENOSPC, errno.EDQUOT)
_COMMANDS_OWN_FAULT = (errno.ENAMETOOLONG, errno.E2BIG, errno.ELOOP)
_RULES = (".gitignore", ".gitattributes")
"""A change of these says something about files that did not change."""
_JOIN_SESSION_KEYRING = 1
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}


class Cell:
    def __init__(self, config: dict[str, Any]) -> None:
        self._socket = socket.socket(fileno=0)
        self._sending, self._running = threading.Lock(), dict[int, running.Stop]()
        mounts.open_place()
        self._enclosure = enclosure.Enclosure(config)
        prefix = "trusted.overlay." if config["root"] else "user.overlay."
        self._store = layerstore.LayerStore(prefix)
        self._owner = config["uid"] if config["root"] else os.getuid()
        self._uid = config["uid"]
        self._images = imagelayers.ImageLayers(self._store, self._enclosure, prefix, self._owner, self._uid)
        self._shipping = shipping.Shipping(self._store)
        self._look_at_mount_points = "mount-points" not in config["without"]

    def serve(self) -> None:
        """Until whoever asks is gone."""
        asked = self._socket.makefile("rb")
        while line := asked.readline():
            request = json.loads(line)
            if request["do"] == "kill":
                self._kill(request["which"])
                continue
            number, body, stop = request["number"], asked.read(request["body"]), running.Stop()
            self._running[number] = stop
            threading.Thread(target=self._answer, args=(number, request, body, stop), daemon=True).start()
        self._store.close()
        self._enclosure.close()
        os._exit(0)  # nothing more to tidy: this is process 1

    def _kill(self, number: int) -> None:
        with self._sending:
            if stop := self._running.get(number):
                stop.ask()

    def _answer(self, number: int, request: dict[str, Any], body: bytes, stop: running.Stop) -> None:
        out = err = b""
        try:
            reply: dict[str, Any]
            if request["do"] == "facts":
                reply = {"facts": self._enclosure.facts}
            elif request["do"] == "base":
                reply = {"layers": [self._base(request["binds"])], "session": self._store.session}
            elif request["do"].startswith("image"):
                reply = self._image(request, stop)
            elif request["do"].startswith("ship"):
                reply, out = self._ship(request, body)
            else:
                reply, out, err = self._execute(request, body, stop)
        except OSError as error:
            kind = "full" if error.errno in _FULL else "refused" if error.errno in _COMMANDS_OWN_FAULT else "lost"
            reply = {"error": kind, "words": str(error)}
        except running.Problem as problem:
            reply = {"error": problem.kind, "words": str(problem)}
        except (RecursionError, ValueError) as error:
            reply = {"error": "refused", "words": str(error)}
        except Exception as error:  # whoever waits must hear something
            reply = {"error": "lost", "words": f"the sandbox helper failed: {error!r}"}
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        reply |= {
            "number": number,
            "cpu": used.ru_utime + used.ru_stime + self._enclosure.cpu_seconds,
            "stdout": len(out),
            "stderr": len(err),
        }
        with self._sending:
            self._running.pop(number).close()
            self._socket.sendall(json.dumps(reply).encode() + b"\n" + out + err)

    def _base(self, binds: list[str]) -> str:
        """Made once for what it holds, by whoever comes first."""
        shown = skeleton.mounts(binds)
        items = skeleton.plan(shown, self._uid)
        name = skeleton.name(items, shown, self._owner)
        if not self._store.holds([name]):
            with self._store.slot() as slot:
                skeleton.write(items, f"{slot}/u", self._owner)
                with open(f"{slot}/shown", "w") as file:
                    json.dump(shown, file)
                self._store.publish(slot, name, ())
        return name

    def _image(self, request: dict[str, Any], stop: running.Stop) -> dict[str, Any]:
        """The steps of an import, in the order in which images.py asks for them."""
        room = f"{self._store.session}/{request['room']}"
        if request["do"] == "image room":
            os.mkdir(room)
            return {"room": room}
        if request["do"] == "image missing":
            return {"missing": self._images.missing(request["diff_ids"])}
        if request["do"] == "image layer":
            base, file = self._base([]), f"{room}/{request['file']}"
            shown = skeleton.mounts([])
            diff_id, limits = request["diff_id"], request["limits"]
            return {"dropped": self._images.unpack(base, shown, file, diff_id, room, limits, stop)}
        if request["do"] == "image publish":
            self._images.publish(room, request["diff_ids"])
            return {}
        if request["do"] == "image base":
            return {"layers": [self._images.base(request["diff_ids"], request["env"])]}
        layerstore.remove(room)
        return {}

    def _ship(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """The steps of a layer's way from one store to another: send, part…, close; take, add…, close."""
        if request["do"] == "ship send":
            return {"stream": self._shipping.send(request["layer"])}, b""
        if request["do"] == "ship part":
            return {}, self._shipping.part(request["stream"])
        if request["do"] == "ship take":
            return {"stream": self._shipping.take(request["layer"], request["below"])}, b""
        if request["do"] == "ship add":
            self._shipping.add(request["stream"], body)
        else:
            self._shipping.close(request["stream"])
        return {}, b""

    def _execute(self, request: dict[str, Any], body: bytes, stop: running.Stop) -> tuple[dict[str, Any], bytes, bytes]:
        state = tuple(request["layers"])
        with self._store.used(state) as there:
            if not there:
                raise running.Problem("lost", f"the layers of state {state[0]} are not in the store")
            return self._execute_in(state, request, body, stop)

    def _execute_in(
        self, state: tuple[str, ...], request: dict[str, Any], body: bytes, stop: running.Stop
    ) -> tuple[dict[str, Any], bytes, bytes]:
        with open(f"{state[-1]}/shown") as file:
            shown = json.load(file)
        foreign = os.path.exists(f"{state[-1]}/image")
        if foreign:
            with open(f"{state[-1]}/image") as file:
                request |= {"foreign": True, "env": json.load(file)["env"] | request["env"]}
        with self._store.slot() as slot, ExitStack() as beside:
            below = self._store.open(slot, state)
            if foreign:  # as in a container, all of it is the user's
                os.chown(f"{slot}/u", self._owner, self._owner)
            with self._store.mounted(slot, below) as root:
                for path in skeleton.mount_points(shown) if self._look_at_mount_points else []:
                    _refuse_moved(root, path)
                if compared := request.get("compared"):
                    request, body = self._compare(request, root, tuple(compared["since"]), compared["at"], beside)
                ran = self._enclosure.run(
                    enclosure.Execution(root, f"{slot}/u", shown, request, body, stop, self._store.has_room)
                )
            if not self._store.has_room():
                raise OSError(errno.ENOSPC, "no space left where the states live")
            kept = ran.outcome != "lost" and ran.limit not in ("disk", "files")
            after = self._store.freeze(slot, below) if kept and request["freeze"] else None
            if ran.outcome != "finished" or not layers.is_small(*ran.written):
                layerstore.remove(slot)  # now, for the disk may need what it gives back
        reply = {"outcome": ran.outcome, "limit": ran.limit, "exit_code": ran.exit_code, "seconds": ran.seconds}
        dropped = ran.stdout.dropped + ran.stderr.dropped
        return reply | {"after": after, "dropped": dropped}, ran.stdout.kept(), ran.stderr.kept()

    def _compare(
        self, request: dict[str, Any], root: str, since: tuple[str, ...], at: str, beside: ExitStack
    ) -> tuple[dict[str, Any], bytes]:
        """The repository of an earlier state is shown beside this one, and the script told what may differ. See git.py."""
        if not beside.enter_context(self._store.used(since)):
            raise running.Problem("lost", f"the layers of state {since[0]} are not in the store")
        slot = beside.enter_context(self._store.slot())
        before = beside.enter_context(self._store.mounted(slot, since))
        for tree, path in ((root, at), (before, at), (before, f"{at}/.git")):
            if not _is_plain_directory(tree, path):
                raise running.Problem(
                    "refused", f"not a git repository: {path} is not a directory, or not at this place"
                )
        told: dict[str, str] = {}
        body = b""
        changed = self._store.changed(request["layers"], since, at)
        if changed and not any(path.rpartition("/")[2] in _RULES for path in (*changed.present, *changed.gone)):
            present, gone = (b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths) for paths in changed)
            told, body = {"LISTED": f"{len(present)} {len(gone)}"}, present + gone
        shown = {"/dev/since": f"{before}{at}/.git"}
        return request | {"env": request["env"] | told, "beside": shown}, body


def _is_plain_directory(root: str, path: str) -> bool:
    """Nothing of it is a link, which would be followed on the host. Nothing runs in it at this time."""
    at = root
    for name in path.split("/")[1:]:
        at += f"/{name}"
        if os.path.islink(at) or not os.path.isdir(at) or name in ("", ".", ".."):
            return False
    return True


def _refuse_moved(root: str, path: str) -> None:
    """bubblewrap follows links when it mounts: a state must not say where. Nothing runs in it at this time."""
    at = root
    for name in path.split("/")[1:]:
        at += f"/{name}"
        if os.path.islink(at) or not os.path.lexists(at):
            raise running.Problem("refused", f"this state can execute nothing: {path} was moved or replaced in it")


def _forget_keys() -> None:
    """A new session keyring: the kernel keys of whoever started this are not for what runs here."""
    import ctypes

    if number := _KEYCTL.get(os.uname().machine):
        ctypes.CDLL(None).syscall(number, _JOIN_SESSION_KEYRING, None)


if __name__ == "__main__":
    sys.setrecursionlimit(20_000)  # a tree is as deep as a sandbox likes
    threading.stack_size(16 << 20)
    os.umask(0o022)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a walk holds one for each level
    config = json.loads(sys.argv[1])
    if "keyring" not in config["without"]:
        _forget_keys()
    if config["root"]:
        os.setgroups([])  # nothing that bubblewrap starts has others than its user's own
    Cell(config).serve()

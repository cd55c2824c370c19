"""What killed processes left in a Docker engine: whose a container or an image is, and whether that process is dead."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from runoff.sandbox.docker.engine import Engine
from runoff.sandbox.protocol import SandboxLost, SandboxUnavailable

OWNER = "runoff.owner"
"""The label: an Owner and, after another slash, which sandbox of that process."""
_NAMED = re.compile(r"/runoff-[0-9a-f]{16}")  # as engine.py names what it makes

_OVER = 24 * 3600  # seconds after which what is dead is nobody's, whoever made it


class Owner(NamedTuple):
    """A process, named so that another process of this machine can tell whether it still lives."""

    boot: str
    namespace: str
    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Raises OSError if there is none."""
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat") as file:
            began = file.read().rpartition(")")[2].split()[19]
        return cls(boot, os.readlink("/proc/self/ns/pid").strip("pid:[]"), pid, began)  # noqa: PTH115

    def __str__(self) -> str:
        return f"{self.boot}/{self.namespace}/{self.pid}/{self.began}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        parts = text.split("/")
        return cls(parts[0], parts[1], int(parts[2]), parts[3]) if len(parts) == 4 and parts[2].isdigit() else None


def is_dead(owner: Owner, here: Owner) -> bool:
    """Whether this process, `here`, knows for certain. It cannot look into another machine, nor another process namespace.

    After another boot it may be another machine's: nobody knows.
    """
    if owner.boot != here.boot or owner.namespace != here.namespace:
        return False
    try:
        return Owner.of(owner.pid).began != owner.began
    except (FileNotFoundError, ProcessLookupError):
        return True


def remove_containers(engine: Engine, here: Owner, *, only_look: bool = False) -> list[str]:
    """Those of dead processes, and their volumes. The names of what is gone, or would be."""
    gone = []
    for each in engine.containers(OWNER):
        over = each["State"] in ("created", "exited", "dead")
        ours = _NAMED.fullmatch(str(each["Names"][0]))  # a container of anyone's has its image's labels too
        if ours and _is_left(each, here, over=over):
            gone.append(str(each["Names"][0]).strip("/"))
            if not only_look:
                with suppress(SandboxLost):
                    engine.remove(each["Id"])
    for each in engine.volumes(OWNER):
        owner = _owner(each)
        if owner and is_dead(owner, here) and not only_look:
            engine.remove_volume(each["Name"])
    return gone


def remove_images(engine: Engine, here: Owner, *, label: str = OWNER, only_look: bool = False) -> list[str]:
    """Of those with this label: states of dead processes that have no name, and on which no other state stands.

    A log may still name them: what it then needs is made again.
    """
    left = {
        each["Id"]: each
        for each in engine.images(label)
        if not [tag for tag in each["RepoTags"] or () if tag != "<none>:<none>"] and _is_left(each, here, over=True)
    }
    if only_look:
        return list(left)
    gone, before = list[str](), -1
    while left and len(gone) > before:  # the topmost of each stack first
        before = len(gone)
        for image in list(left):
            if engine.remove_image(image):
                gone.append(image)
                del left[image]
    return gone


def leftovers(only_look: bool) -> list[str]:
    """For `runoff clean`: what is left, or was, a name each. Nothing where there is no engine."""
    try:
        engine = Engine(deadline=10)
        engine.about()
    except SandboxUnavailable:
        return []
    try:
        here = Owner.of(os.getpid())
        return [
            *(f"container {name}" for name in remove_containers(engine, here, only_look=only_look)),
            *(f"image {name}" for name in remove_images(engine, here, only_look=only_look)),
        ]
    finally:
        engine.close()


def _is_left(each: Mapping[str, Any], here: Owner, *, over: bool) -> bool:
    """Of what nobody can say whether its owner lives, only what is over for a day."""
    owner = _owner(each)
    if owner and (owner.boot, owner.namespace) == (here.boot, here.namespace):
        return is_dead(owner, here)
    return over and time.time() - float(each["Created"]) > _OVER


def _owner(each: Mapping[str, Any]) -> Owner | None:
    return Owner.parse((each["Labels"] or {}).get(OWNER, "").rpartition("/")[0])

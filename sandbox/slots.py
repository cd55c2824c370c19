"""A place for one execution at a time: its control group, its namespace, and the thread that starts things in them.

Part of the sandbox's helper (cell.py), standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runoff.sandbox import cgroups, templates, usernamespace
    from runoff.sandbox.devices import Devices
else:
    sys.path.append(str(Path(__file__).parent))
    import usernamespace


class Slot:
    """What one execution at a time uses. Its thread is in the slot's control group, and so is all that it starts.

    bubblewrap is to die with the thread that started it, so the thread stays. With a namespace the thread is the user
    outside, too: bubblewrap then needs nothing of the root to become the user, nor do we trust it.
    """

    def __init__(self, group: cgroups.Group, namespace: int | None, devices: Devices, user: int) -> None:
        self.group, self.namespace, self.devices = group, namespace, devices
        self.template: templates.Template | None = None
        self._asked, self._answers = SimpleQueue[Callable[[], Any]](), SimpleQueue[Any]()
        threading.Thread(target=self._serve, daemon=True).start()
        self.call(group.enter)
        if namespace is not None:
            self.call(lambda: usernamespace.become(user))

    def start(self, command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self.call(lambda: subprocess.Popen(command, **how))
        return process

    def call(self, what: Callable[[], Any]) -> Any:
        self._asked.put(what)
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _serve(self) -> None:
        while True:
            what = self._asked.get()
            try:
                answer = what()
            except Exception as error:  # whoever asked raises it
                answer = error
            self._answers.put(answer)

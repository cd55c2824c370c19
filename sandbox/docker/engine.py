"""A Docker engine's API as far as a sandbox needs it: each call has a deadline, each failure is an error of protocol.py.

Blocking: for threads. Nothing here knows what a state is.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runoff.sandbox import watch
from runoff.sandbox.protocol import SandboxError, SandboxLost, SandboxUnavailable, StoreFull

DEFAULT_URL = "unix:///var/run/docker.sock"
DEADLINE = 60.0
"""Seconds for an ordinary call."""
PATIENCE = 15
"""Calls that move a file system (commit, export, import, pull) may take this many times as long."""

_HEADERS = 64 << 10  # bytes of an HTTP answer's head


class Missing(SandboxLost):
    """The engine does not have what was named."""


class Engine:
    """`url` None: $DOCKER_HOST, or the usual socket. unix:// and tcp:// without TLS are spoken; a tunnel serves the rest."""

    def __init__(self, url: str | None = None, deadline: float = DEADLINE) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self.deadline = deadline
        if urlsplit(self.url).scheme not in ("unix", "tcp"):
            raise SandboxUnavailable(f"no way to an engine at {self.url}", "give a unix:// or a tcp:// address")
        try:
            import docker
        except ImportError as error:
            raise SandboxUnavailable("the docker package is not installed", "run: pip install docker") from error
        try:
            self._quick = docker.APIClient(base_url=self.url, version="auto", timeout=deadline)
        except docker.errors.DockerException as error:
            raise self._unavailable(str(error)) from error
        self._slow = docker.APIClient(base_url=self.url, version=self._quick.api_version, timeout=deadline * PATIENCE)
        for client in (self._quick, self._slow):
            client.trust_env = False  # a proxy is for the world outside

    @property
    def is_here(self) -> bool:
        """Whether it may be on this machine."""
        return self.url.startswith("unix:")

    def close(self) -> None:
        self._quick.close()
        self._slow.close()

    def about(self) -> dict[str, Any]:
        """What the engine says of itself. Raises SandboxUnavailable, with what would mend it, if it says nothing."""
        try:
            with self._asked("info"):
                info: dict[str, Any] = self._quick.info()
        except SandboxLost as error:
            raise self._unavailable(str(error)) from error
        return info

    def _unavailable(self, words: str) -> SandboxUnavailable:
        path = urlsplit(self.url).path if self.url.startswith("unix:") else None
        if path and not os.path.exists(path):  # noqa: PTH110
            return SandboxUnavailable(f"no Docker engine: {path} does not exist", REMEDY)
        if path and not os.access(path, os.W_OK):
            return SandboxUnavailable(
                f"no Docker engine: {path} is not for this user",
                "join its group: `sudo usermod -aG docker $USER`, and log in again (who is in it is as good as root)",
            )
        if "timed out" in words.lower():
            return SandboxUnavailable(f"the Docker engine at {self.url} does not answer", "`systemctl restart docker`")
        return SandboxUnavailable(f"no Docker engine at {self.url}: {words}", REMEDY)

    # Containers

    def create(self, image: str, program: Sequence[str], host: Mapping[str, Any], labels: Mapping[str, str]) -> str:
        """A container, not started, whose process 1 will be `program` as root. Its host configuration is `host`."""
        from docker.types import Healthcheck

        with self._asked("create a container"):
            config = self._quick.create_container_config(
                image,
                command=[],
                entrypoint=list(program),
                user="0:0",
                working_dir="/",
                labels=dict(labels),
                healthcheck=Healthcheck(test=["NONE"]),
                host_config=dict(host),
            )
            config |= {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
            if host["NetworkMode"] != "host":
                config["Hostname"] = "sandbox"
            name = f"runoff-{os.urandom(8).hex()}"
            made = self._quick.create_container_from_config(config, name)
        return str(made["Id"])

    def start(self, container: str) -> socket.socket:
        """What holds the standard input of process 1 open: it ends when this is closed, by us or by our death."""
        with self._asked("hold a container"):
            lifeline, _ = self._upgraded(f"/containers/{container}/attach?stream=1&stdin=1", {})
        try:
            with self._asked("start a container"):
                self._quick.start(container)
        except BaseException:
            lifeline.close()
            raise
        return lifeline

    def kill(self, container: str) -> dict[str, Any]:
        """Returns once the engine has seen the last process die, with what the engine knows of its end."""
        with suppress(Missing), self._asked("kill a container", ignore=409):  # 409: it is dead already
            if self._quick.inspect_container(container)["State"]["Paused"]:
                self._quick.unpause(container)  # a frozen process does not die, and the engine would wait for that
            self._quick.kill(container)
        with self._asked("wait for a container"):
            self._quick.wait(container)
            state: dict[str, Any] = self._quick.inspect_container(container)["State"]
        return state

    def process(self, container: str) -> int:
        """Its process 1, as this machine counts, if the engine is here."""
        with self._asked("ask for a process"):
            return int(self._quick.inspect_container(container)["State"]["Pid"])

    def remove(self, container: str, *, volumes: bool = True) -> None:
        """Kills it too. No error if it is gone, or going."""
        with suppress(Missing), self._asked("remove a container", ignore=409):
            if self._quick.inspect_container(container)["State"]["Paused"]:
                self._quick.unpause(container)
            self._quick.remove_container(container, force=True, v=volumes)

    def processes(self, container: str) -> int:
        """How many there are now; 0 if it does not run."""
        return len(self._processes(container))

    def unlinked(self, container: str) -> int:
        """Bytes in files without a name that its processes hold open, which the engine does not count.

        0 where the engine is not on this machine, or its processes are not ours to look at.
        """
        first = self.process(container)
        with suppress(OSError):
            if container in Path(f"/proc/{first}/cgroup").read_text():
                return watch.unlinked(first, self._processes(container))[0]
        return 0

    def _processes(self, container: str) -> list[int]:
        from docker.errors import APIError
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

        with self._asked("list processes", ignore=409):
            for attempt in Retrying(
                # of a container that is dying the engine says "ttrpc: closed" for a moment, and 409 from then on
                retry=retry_if_exception(lambda error: isinstance(error, APIError) and error.is_server_error()),
                stop=stop_after_delay(5),
                wait=wait_fixed(0.05),
                reraise=True,
            ):
                with attempt:
                    said = self._quick.top(container)
            return [int(row[said["Titles"].index("PID")]) for row in said["Processes"] or ()]
        return []

    def changed(self, container: str, most: int) -> int:
        """How many paths differ from the image, counted as far as `most` + 1."""
        path, mark = f"/containers/{container}/changes", b'"Kind":'
        with self._asked("list what changed"), self._raw("GET", path, stream=True) as answer:
            count, rest = 0, b""
            for chunk in answer.iter_content(1 << 16):
                count += (rest + chunk).count(mark)
                rest = (rest + chunk)[1 - len(mark) :]
                if count > most:
                    break
            return count

    def written(self, container: str) -> int:
        """Bytes in the container's own layer."""
        with self._asked("ask for a size"):
            said = self._raw("GET", f"/containers/{container}/json", params={"size": "1"}).json()
            return int(said.get("SizeRw") or 0)

    def processor_seconds(self, container: str) -> float:
        with self._asked("ask for statistics"):
            said = self._quick.stats(container, stream=False, one_shot=True)
            return float(said["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def containers(self, label: str) -> list[dict[str, Any]]:
        with self._asked("list containers"):
            return list(self._quick.containers(all=True, filters={"label": label}))

    def memory_ran_out(self, label: str, tell: Callable[[str], None]) -> Callable[[], None]:
        """Begin to listen; returns what to call in a thread: it tells of each container, until the engine is closed."""
        with self._asked("listen to events"):
            filters = {"type": "container", "event": "oom", "label": label}
            self._events = self._quick.events(decode=True, filters=filters)

        def listen() -> None:
            with suppress(Exception):  # a broken connection ends it: those who rely on it look at `finally`
                for event in self._events:
                    tell(event["Actor"]["ID"])

        return listen

    def stop_listening(self) -> None:
        with suppress(Exception):
            self._events.close()

    def begin(self, container: str, program: Sequence[str], user: str) -> tuple[str, socket.socket, bytes]:
        """Start one more program in a container: its id, the stream of its input and output, what came of it already.

        By our own upgrade of the connection: what the SDK gives loses output that came together with the answer's head.
        """
        with self._asked("prepare a program"):
            number = str(self._quick.exec_create(container, list(program), stdin=True, user=user)["Id"])
        with self._asked("start a program"):
            connection, early = self._upgraded(f"/exec/{number}/start", {"Detach": False, "Tty": False})
        return number, connection, early

    def exit_code(self, number: str) -> int | None:
        with self._asked("ask for an exit code"):
            code = self._quick.exec_inspect(number)["ExitCode"]
            return None if code is None else int(code)

    def archived(self, container: str, path: str) -> Generator[bytes, None, None]:
        """A path of a container that need not run, as a tar stream. Raises Missing."""
        with self._asked(f"read {path}"):
            yield from self._slow.get_archive(container, path)[0]

    def put(self, container: str, archive: bytes) -> None:
        with self._asked("write files"):
            self._slow.put_archive(container, "/", archive)

    def volume(self, labels: Mapping[str, str]) -> str:
        with self._asked("make a volume"):
            return str(self._quick.create_volume(labels=dict(labels))["Name"])

    def volumes(self, label: str) -> list[dict[str, Any]]:
        with self._asked("list volumes"):
            return list(self._quick.volumes(filters={"label": label})["Volumes"] or ())

    def remove_volume(self, name: str) -> None:
        """No error if it is gone, or in use."""
        with suppress(Missing), self._asked("remove a volume", ignore=409):
            self._quick.remove_volume(name)

    # Images

    def image(self, name: str) -> dict[str, Any]:
        """Raises Missing."""
        with self._asked("inspect an image"):
            said: dict[str, Any] = self._quick.inspect_image(name)
            return said

    def images(self, label: str) -> list[dict[str, Any]]:
        with self._asked("list images"):
            return list(self._quick.images(all=True, filters={"label": label}))

    def commit(self, container: str) -> str:
        """The id of a new image of what is in the container. The container is not paused: nothing may be writing."""
        with self._asked("commit a container"):
            return str(self._slow.commit(container, pause=False)["Id"])

    def imported(self, archive: bytes | Iterable[bytes], labels: Mapping[str, str]) -> str:
        """The id of a new image with one layer, from a tar stream."""
        changes = [f"LABEL {_quoted(name)}={_quoted(value)}" for name, value in labels.items()]
        with self._asked("import an image"):
            params = [("fromSrc", "-"), *(("changes", change) for change in changes)]
            headers = {"Content-Type": "application/tar"}
            answer = self._raw("POST", "/images/create", data=archive, params=params, headers=headers)
            for line in answer.text.splitlines():
                said = json.loads(line)
                if "error" in said:
                    raise _lost(said["error"])
                if said.get("status", "").startswith("sha256:"):
                    return str(said["status"])
        raise SandboxLost("the Docker engine did not say what it imported")

    def exported(self, container: str) -> Generator[bytes, None, None]:
        """A container's file system as a tar stream, without what is mounted in it."""
        with self._asked("export a container"):
            yield from self._slow.export(container)

    def pull(self, name: str) -> None:
        repository, tag = _split(name)
        with self._asked(f"pull {name}"):
            until = time.monotonic() + self.deadline * PATIENCE * 4
            for said in self._slow.pull(repository, tag, stream=True, decode=True):
                if "error" in said:
                    raise _lost(said["error"])
                if time.monotonic() > until:
                    raise SandboxLost(f"the Docker engine did not pull {name} in time")

    def load(self, archive: Any) -> str:
        """The name or id of the last image of a `docker save` archive, an open file."""
        with self._asked("load an image"):
            for said in self._slow.load_image(archive):
                if "error" in said:
                    raise _lost(said["error"])
                if "stream" in said and said["stream"].startswith("Loaded image"):
                    loaded = said["stream"].split(": ", 1)[1].strip()
        return str(loaded)

    def tag(self, image: str, repository: str, tag: str) -> None:
        with self._asked("name an image"):
            self._quick.tag(image, repository, tag, force=True)

    def remove_image(self, image: str) -> bool:
        """Only this one, and only if no container and no other image needs it: says whether it is gone."""
        try:
            with self._asked("remove an image"):
                self._quick.remove_image(image, force=False, noprune=True)
        except Missing:
            return True
        except SandboxLost:
            return False
        return True

    # Connections

    def _raw(self, method: str, path: str, **how: Any) -> Any:
        """What the SDK has no call for, or none with this option."""
        import docker.errors
        import requests

        client = self._slow if method == "POST" else self._quick
        answer = client.request(method, f"{client.base_url}/v{client.api_version}{path}", timeout=client.timeout, **how)
        try:
            answer.raise_for_status()
        except requests.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)  # raises
        return answer

    @contextmanager
    def _asked(self, what: str, ignore: int = 0) -> Iterator[None]:
        import docker.errors
        import requests
        import urllib3

        try:
            yield
        except docker.errors.APIError as error:
            if error.status_code == ignore:
                return
            words = " ".join(str(error.explanation or error).split())
            raise Missing(words) if error.status_code == 404 else _lost(words) from error
        except (requests.Timeout, TimeoutError) as error:
            raise SandboxLost(f"the Docker engine at {self.url} does not answer (to {what})") from error
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            docker.errors.DockerException,
            OSError,
        ) as error:
            timed_out = "timed out" in str(error).lower()
            why = "does not answer" if timed_out else f"cannot be asked: {error}"
            raise SandboxLost(f"the Docker engine at {self.url} {why} (to {what})") from error

    def _upgraded(self, path: str, body: Mapping[str, Any]) -> tuple[socket.socket, bytes]:
        """A connection turned into a plain stream, and the first bytes of that."""
        data = json.dumps(body).encode()
        head = [
            f"POST /v{self._quick.api_version}{path} HTTP/1.1",
            "Host: docker",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            "Connection: Upgrade",
            "Upgrade: tcp",
        ]
        connection = self._connected()
        try:
            connection.sendall("\r\n".join([*head, "", ""]).encode() + data)
            answer = b""
            while b"\r\n\r\n" not in answer:
                chunk = connection.recv(1 << 14)
                if not chunk or len(answer) > _HEADERS:
                    raise SandboxLost(f"the Docker engine at {self.url} broke off")
                answer += chunk
            top, _, early = answer.partition(b"\r\n\r\n")
            status = top.split(None, 2)[1]
            if status not in (b"101", b"200"):
                early += connection.recv(1 << 14) if not early else b""
                words = early.decode("utf-8", "replace").strip()
                raise Missing(words) if status == b"404" else _lost(words or top.decode("utf-8", "replace"))
        except BaseException:
            connection.close()
            raise
        return connection, early

    def _connected(self) -> socket.socket:
        place = urlsplit(self.url)
        if place.scheme == "tcp":
            return socket.create_connection((place.hostname or "localhost", place.port or 2375), self.deadline)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self.deadline)
        try:
            connection.connect(place.path)
        except OSError:
            connection.close()
            raise
        return connection


REMEDY = "start one: `systemctl start docker` (Debian, Ubuntu: `apt-get install docker.io`)"


def _lost(words: str) -> SandboxError:
    full = "no space left on device" in words.lower() or "disk quota exceeded" in words.lower()
    return (StoreFull if full else SandboxLost)(f"the Docker engine: {words}")


def _quoted(text: str) -> str:
    """As a word in a Dockerfile."""
    return '"' + "".join(f"\\{letter}" if letter in '\\"$' else letter for letter in text) + '"'


def _split(name: str) -> tuple[str, str | None]:
    """Repository and tag (or digest) of an image's name; a colon before the last slash is a port."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    rest, colon, tag = name.rpartition(":")
    return (rest, tag) if colon and "/" not in tag else (name, "latest")

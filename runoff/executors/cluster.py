"""A Ray cluster as a fleet: an actor a node, which holds no processor of Ray's. Ray is imported only here.

Our actors belong to the process that made them: Ray ends them when that ends, however it ends.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from runoff.executors.protocol import Hello, Job, Lost, Said, Told
from runoff.executors.worker import Worker
from runoff.run import BadRun
from runoff.sandbox.environments.builder import Contents
from runoff.sandbox.protocol import SandboxUnavailable

_AWAY = 20.0
"""Seconds that Ray's own head may be away. Ray gives up after 60."""
_BEGIN = 300.0
"""Seconds that a worker's process may take to begin."""


@asynccontextmanager
async def cluster(address: str, sources: Path) -> AsyncIterator[Cluster]:
    """The cluster at `address` (`auto`: the one that this machine belongs to), joined. Repositories are unpacked in
    `sources` on its nodes. Raises SandboxUnavailable without Ray, BadRun without a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report outside
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning about devices that we do not use
    try:
        import ray
    except ImportError:
        raise SandboxUnavailable("Ray is not installed", "pip install 'runoff[ray]', on every node") from None
    await _reached(address)
    # Of lost workers it would tell on standard output, which is for results.
    ray._private.worker._worker_logs_enabled = False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="runoff")
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadRun(f"no Ray cluster can be joined at {address}: {said}; begin one: ray start --head") from None
    made = Cluster(ray, sources)
    try:
        yield made
    finally:
        if made.gone:
            atexit.unregister(ray.shutdown)  # it would wait for what is gone, until Ray ends this process
            atexit.register(_leave)
        else:
            ray.shutdown()


async def _reached(address: str) -> None:
    """Ray itself tries an address at which nobody is for minutes, and then says little. Raises BadRun."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "/" in address or not host or not port.isdecimal():
        raise BadRun(f"--address {address}: give the HOST:PORT that ray start --head printed, or auto")
    try:
        async with asyncio.timeout(10):
            _, there = await asyncio.open_connection(host.strip("[]"), int(port))
        there.close()
    except (OSError, TimeoutError) as error:
        raise BadRun(f"no Ray cluster is at {address}: {error or 'no answer'}; begin one: ray start --head") from None


def _leave() -> None:
    """The end of a process that BadRun ends, before Ray's threads crash in it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


class Cluster:
    """See `protocol.Fleet`."""

    def __init__(self, ray: Any, sources: Path) -> None:
        self._ray, self._sources, self._address = ray, sources, ray.get_runtime_context().gcs_address
        self.gone = False
        """Whether Ray's own head is: then nothing can be asked of Ray any more."""
        self._actor = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(Worker)

    async def nodes(self) -> dict[str, str]:
        await self._there()
        try:
            known = await asyncio.to_thread(self._ray.nodes)
        except self._ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:200]
            raise BadRun(f"the Ray cluster is gone: {said}; the same command goes on with another") from None
        return {node["NodeID"]: node["NodeManagerAddress"] for node in known if node["Alive"]}

    async def _there(self) -> None:
        """Ray's own head may come back soon, where it is set up so. Raises BadRun: Ray would end this process, without a word."""
        ends = asyncio.get_running_loop().time() + _AWAY
        while True:
            try:
                return await _reached(self._address)
            except BadRun:
                if asyncio.get_running_loop().time() > ends:
                    self.gone = True
                    raise BadRun(
                        f"Ray's own head, {self._address}, is gone; begin a cluster, and the same command goes on with it"
                    ) from None
            await asyncio.sleep(1)

    async def start(self, node: str, job: Job) -> tuple[_Actor, Hello]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        handle = self._actor.options(scheduling_strategy=there, max_concurrency=1000).remote(job, self._sources)
        worker = _Actor(self._ray, handle, self)
        try:
            hello: Hello = await asyncio.wait_for(worker.answer(handle.open.remote()), _BEGIN)
        except TimeoutError:
            worker.kill()
            raise Lost(f"it did not begin within {_BEGIN:g} s") from None
        return worker, hello

    def put(self, contents: Contents) -> Awaitable[Contents]:
        kept: Awaitable[Contents] = self._ray.put(contents)
        return kept


class _Actor:
    """See `protocol.Away`."""

    def __init__(self, ray: Any, handle: Any, cluster: Cluster) -> None:
        self._ray, self._handle, self._cluster = ray, handle, cluster

    async def answer(self, reference: Any) -> Any:
        """Raises Lost."""
        try:
            return await reference
        except self._ray.exceptions.RayTaskError:
            raise  # a mistake of ours
        except self._ray.exceptions.RayError as error:
            raise Lost(f"{type(error).__name__}") from None

    async def hear(self) -> list[Said]:
        heard: list[Said] = await self.answer(self._handle.hear.remote())
        return heard

    def tell(self, told: Told) -> None:
        with suppress(self._ray.exceptions.RayError):  # whoever hears it learns that it is lost
            self._handle.tell.remote(told)

    async def ship(self, layer: str) -> AsyncIterator[Awaitable[bytes]]:
        how = {"num_returns": "streaming", "_generator_backpressure_num_objects": 2}
        try:
            async for part in self._handle.ship.options(**how).remote(layer):
                yield part
        except self._ray.exceptions.RayError as error:
            raise Lost(f"{type(error).__name__}") from None

    async def end(self) -> None:
        await self.answer(self._handle.end.remote())

    def kill(self) -> None:
        if self._cluster.gone:
            return
        with suppress(Exception):  # it is gone already, or Ray is
            self._ray.kill(self._handle)

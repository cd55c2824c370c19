"""Files in and out: write, read and unpack run inside, by the sandbox's own tools, and follow no link out of it."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile

from runoff.sandbox.conformance.case import case, raises, said, sh
from runoff.sandbox.protocol import Refused, Sandbox, State


@case
async def what_is_written_can_be_read(sandbox: Sandbox, base: State) -> None:
    """A file comes back changed, under another name, or without the mode it had."""
    state = await sh(sandbox, base, "echo old > tool; chmod 750 tool; mkdir gone; touch gone/f")
    odd = "/testbed/new/-ödd name\n\udcfe"
    large = os.urandom(5 << 20)
    files = {"/testbed/tool": b"new", odd: bytes(range(256)), "/tmp/deep/er/empty": b"", "/tmp/large": large}
    after = await sandbox.write(state, files | {"/testbed/gone": None, "/testbed/never/was": None})
    assert await said(sandbox, after, "stat -c %a tool; ls") == "750\nnew\ntool\n"
    for path, data in files.items():
        same = await sandbox.read(after, path) == data  # not in the assert: pytest would draw 5 MiB of differences
        assert same, path
    assert await sandbox.read(state, "/testbed/tool") == b"old\n", "the state itself changed"


@case
async def what_cannot_be_read_is_refused(sandbox: Sandbox, base: State) -> None:
    """A file that is not there looks like an empty one."""
    state = await sandbox.write(base, {"/testbed/f": b"12345"})
    assert await sandbox.read(state, "/testbed/f", 5) == b"12345"
    for path in ("/nope", "/testbed", "/testbed/f", "/testbed/f/x"):
        with raises(Refused, path):
            await sandbox.read(state, path, 4)


@case
async def a_link_leads_to_the_sandboxs_own_files(sandbox: Sandbox, base: State) -> None:
    """A link that a test planted makes the host read or overwrite a file of its own."""
    with tempfile.TemporaryDirectory() as directory, tempfile.NamedTemporaryFile("r+", dir=directory) as file:
        secret = file.name
        file.write("s3cret")
        file.flush()
        state = await sh(
            sandbox, base, f"ln -s {secret} f; ln -s {directory} d; ln -s /etc/passwd p; ln -s /proc/1/root r"
        )
        for path in ("/testbed/f", "/testbed/d/secret", f"/testbed/r{secret}"):
            with raises(Refused):
                await sandbox.read(state, path)
        for path in ("/testbed/f", "/testbed/d/secret"):
            try:
                await sandbox.write(state, {path: b"mine"})
            except Refused:
                continue
        file.seek(0)
        assert file.read() == "s3cret"
        inside = await said(sandbox, base, "cat /etc/passwd")
        assert await sandbox.read(state, "/testbed/p") == inside.encode()


@case
async def an_archive_is_unpacked(sandbox: Sandbox, base: State) -> None:
    """A repository arrives without its programs' modes or its links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, mode in (("tool", 0o755), ("d/f", 0o640)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 3, mode
            tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "d/f"
        tar.addfile(link)
    state = await sandbox.unpack(base, packed.getvalue(), "/testbed/new/place")
    assert await said(sandbox, state, "cd new/place; stat -c %a tool d/f; cat link; touch d/mine") == "755\n640\nabc"
    with raises(Refused):
        await sandbox.unpack(state, b"not a tar archive" * 1000, "/testbed")

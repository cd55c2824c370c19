"""Docker images with SWE-bench's layout for rows of RUNOFF_SHARED, made at run time in a scratch folder, from each row's `environment`.

The repository at /testbed, its environment called `testbed` where conda would put it, activated as conda would. What an
image is built of are this machine's own Pythons and package indexes, and Debian's root file system by scripts/rootfs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from runoff.agent.patches import patched_paths

PYTHONS = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
ENVIRONMENT = "/opt/miniconda3/envs/testbed"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_TRUST = f"export PIP_CERT={_CERTIFICATES} SSL_CERT_FILE={_CERTIFICATES}"
_ACTIVATE = f"""conda() {{ [ "$1" = activate ] && export PATH={ENVIRONMENT}/bin:$PATH CONDA_DEFAULT_ENV="$2"; }}
"""


def name(row: Mapping[str, Any]) -> str:
    return f"sweb.eval.x86_64.{row['instance_id'].lower()}:latest"


def build(row: Mapping[str, Any], tree: Path, rootfs: Path) -> str:
    """The image of a row, whose repository is `tree`; what is there already is not built again."""
    image = name(row)
    if not _is_there(image):
        below = _environment(row["environment"], rootfs)
        told = ["RUN git config --global --add safe.directory /testbed"]
        if row["environment"]["pythonpath"]:
            told.append("ENV PYTHONPATH=/testbed")
        if install := row["environment"]["install"]:
            told.append(f"RUN {_TRUST} && . /opt/miniconda3/bin/activate && conda activate testbed && {install}")
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder, "repository")
            shutil.copytree(tree, whole, symlinks=True)
            if (lent := whole / ".git" / "objects" / "info" / "alternates").exists():
                subprocess.run(["git", "-C", whole, "repack", "-q", "-a", "-d"], check=True)
                lent.unlink()
            _build(image, below, ["WORKDIR /testbed", "COPY repository /testbed", *told], {"repository": whole})
    return image


def row(row: Mapping[str, Any], answer: Mapping[str, Any], image: str) -> dict[str, Any]:
    """The row with its answer and its image, and an evaluation script of the shape that SWE-bench's have."""
    files = patched_paths(answer["test_patch"].encode())
    at_base = set(re.findall(r"^--- a/(.+?)(?:\t.*)?$", answer["test_patch"], re.MULTILINE))
    reset = f"git checkout {row['base_commit']} {shlex.join(path for path in files if path in at_base)}"
    new = [path for path in files if path not in at_base]
    script = f"""#!/bin/bash
set -uxo pipefail
source /opt/miniconda3/bin/activate
conda activate testbed
cd /testbed
git config --global --add safe.directory /testbed
git status
git show
git -c core.fileMode=false diff {row["base_commit"]}
{reset if at_base else ":"}
{f"rm -f {shlex.join(new)}" if new else ":"}
git apply -v - <<'EOF_114329324912'
{answer["test_patch"].rstrip(chr(10))}
EOF_114329324912
: '>>>>> Start Test Output'
{answer["test_command"]}
: '>>>>> End Test Output'
{reset if at_base else ":"}
"""
    known = {name: answer[name] for name in ("patch", "test_patch", "FAIL_TO_PASS", "PASS_TO_PASS", "log_parser")}
    of_row = ("instance_id", "repo", "base_commit", "version", "problem_statement")
    told = {"image": image, "eval_type": "pass_and_fail", "eval_script": script}
    return {name: row[name] for name in of_row} | known | told


def _environment(environment: Mapping[str, Any], rootfs: Path) -> str:
    """An interpreter and the packages, shared by all rows that want the same."""
    packages = environment["pip_packages"] or []
    key = hashlib.sha256(json.dumps([environment["python"], packages]).encode()).hexdigest()[:12]
    image = f"runoff-grading-environment:{key}"
    if not _is_there(image):
        python = f"{PYTHONS / environment['python']}/bin/python"
        pip = f"{ENVIRONMENT}/bin/python -m pip --disable-pip-version-check install --quiet --no-cache-dir"
        old = environment["python"].startswith(("3.6", "3.7"))  # whose pip 22 and newer pick what they cannot install
        run = [f"{python} -m venv {ENVIRONMENT}", f"{pip} --upgrade {'pip==21.3.1' if old else 'pip'}"]
        if not old:
            pip = f"/uv pip install --quiet --no-cache --python {ENVIRONMENT}/bin/python"
        run += [f"{pip} {shlex.join(packages)}"] if packages else []
        lines = ["COPY activate /opt/miniconda3/bin/activate", "COPY uv /uv", f"RUN {_TRUST} && {' && '.join(run)}"]
        context = {"activate": _ACTIVATE, "uv": Path(find_uv_bin())}
        _build(image, _python(environment["python"], rootfs), lines, context)
    return image


def _python(version: str, rootfs: Path) -> str:
    image = f"runoff-grading-python:{version}"
    if not _is_there(image):
        base = "runoff-grading-base:bookworm"
        if not _is_there(base):
            tar = subprocess.Popen(["tar", "-C", rootfs, "-c", "."], stdout=subprocess.PIPE)
            subprocess.run(["docker", "import", "-", base], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL)
        at = PYTHONS / version
        lines = [f"COPY certificates {_CERTIFICATES}", "COPY patch /usr/bin/patch", f"COPY python {at}"]
        patch = Path(shutil.which("patch") or "patch")
        _build(image, base, lines, {"python": at, "certificates": _CERTIFICATES, "patch": patch})
    return image


def _build(image: str, below: str, lines: Iterable[str], context: Mapping[str, Path | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for what, source in context.items():
            if isinstance(source, str):
                Path(folder, what).write_text(source)
            elif source.is_dir():
                leave = (
                    shutil.ignore_patterns("__pycache__", "site-packages", "test", "*.a") if what == "python" else None
                )
                shutil.copytree(source, Path(folder, what), symlinks=True, ignore=leave)
            else:
                shutil.copy(source, Path(folder, what))
        Path(folder, "Dockerfile").write_text("\n".join([f"FROM {below}", *lines]) + "\n")
        command = ["docker", "build", "--quiet", "--network", "host", "--tag", image, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{image} cannot be built: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _is_there(image: str) -> bool:
    return not subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode

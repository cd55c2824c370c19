#!/usr/bin/env python3
"""`docker compose` by Debian 12's docker-compose 1.29, as far as Harbor's runner needs it: a plugin of docker's, where it has none."""

from __future__ import annotations

import os
import subprocess
import sys


def main(words: list[str]) -> None:
    if words[:1] == ["docker-cli-plugin-metadata"]:
        print('{"SchemaVersion": "0.1.0", "Vendor": "runoff", "Version": "1.29"}')
        return
    words = [word for word in words[words[:1] == ["compose"] :] if word != "--wait"]
    compose = ["docker-compose"]
    while words and words[0].startswith("-"):
        compose, words = compose + words[:2], words[2:]
    if words[:1] == ["cp"]:
        places = [_place(compose, word) for word in words[-2:]]
        os.execvp("docker", ["docker", "cp", *places])
    if words[:1] == ["exec"]:
        words.insert(1, "-T")
    os.execvp(compose[0], [*compose, *words])


def _place(compose: list[str], word: str) -> str:
    """service:path as container:path."""
    service, colon, path = word.partition(":")
    if not colon or "/" in service:
        return word
    found = subprocess.run([*compose, "ps", "-q", service], capture_output=True, text=True, check=True)
    return f"{found.stdout.strip()}:{path}"


if __name__ == "__main__":
    main(sys.argv[1:])

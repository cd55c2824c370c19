"""How many tokens a text has for a model: counted where its tokenizer lies here, in a file or in litellm, else estimated."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path

_CHARACTERS_PER_TOKEN = 3.6
_CARRIED = ("cl100k_base", "o200k_base")
"""OpenAI's encodings that lie in litellm's package. Nothing is ever fetched to count."""


def tokens(text: str | bytes) -> int:
    """An estimate: characters / 3.6, as measured on source code."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


@cache
def counter(model: str) -> Callable[[str], int]:
    """The function that counts for a model, as litellm names it. It remembers what it counted: files come again and again.

    A `tokenizer.json` in the folder RUNOFF_TOKENIZERS comes first: `<name>.json`, / as --, or without the provider's part.
    Raises OSError or ValueError, in one line, if that file cannot be read.
    """
    name = model.partition("@http")[0].partition("?")[0]
    count = _from_file(name) or _exact(name)
    return lru_cache(maxsize=20_000)(count) if count else tokens


def _from_file(model: str) -> Callable[[str], int] | None:
    folder = os.environ.get("RUNOFF_TOKENIZERS")
    names = [model.split("/", n)[-1].replace("/", "--") for n in range(model.count("/") + 1)]
    file = next((file for name in names if folder and (file := Path(folder) / f"{name}.json").is_file()), None)
    if file is None:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(file.read_text())
    except OSError:
        raise
    except Exception as error:  # what it raises is of no class of its own
        raise ValueError(f"{file} holds no tokenizer: {error}") from None
    return lambda text: len(tokenizer.encode(_encodable(text), add_special_tokens=False).ids)


def _exact(model: str) -> Callable[[str], int] | None:
    from runoff.agent import providers

    litellm = providers.litellm()
    name = model.rpartition("/")[2]
    if litellm.utils.huggingface_tokenizer_kind(name) in ("anthropic", "deepseek"):  # the two kinds it carries
        return lambda text: int(litellm.token_counter(model=name, text=_encodable(text)))
    import_module("litellm.litellm_core_utils.default_encoding")  # points tiktoken at the encodings it carries
    import tiktoken

    try:
        encoding = tiktoken.encoding_name_for_model(name)
    except KeyError:
        return None
    if encoding not in _CARRIED:
        return None
    encode = tiktoken.get_encoding(encoding).encode_ordinary
    return lambda text: len(encode(_encodable(text)))


def _encodable(text: str) -> str:
    """Bytes that are no UTF-8 stand as lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")

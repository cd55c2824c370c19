"""How many tokens a text has for a model: counted where its tokenizer comes with litellm, else estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module

_CHARACTERS_PER_TOKEN = 3.6
_CARRIED = ("cl100k_base", "o200k_base")
"""OpenAI's encodings that lie in litellm's package. Nothing is ever fetched to count."""


def tokens(text: str | bytes) -> int:
    """An estimate: characters / 3.6, as measured on source code."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


@cache
def counter(model: str) -> Callable[[str], int]:
    """The function that counts for a model, as litellm names it. It remembers what it counted: files come again and again."""
    count = _exact(model)
    return lru_cache(maxsize=20_000)(count) if count else tokens


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

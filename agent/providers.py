"""What litellm knows of providers: who they are, which keys they want, what they cost, and their errors in plain words."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from runoff.agent.budget import Prices


@cache
def litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it looks for a newer map when imported
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # or it reads keys out of any .env it finds
    import litellm as library

    library.telemetry = False
    library.suppress_debug_info = True
    library.drop_params = True
    # Or an answer that repeats itself, as code may, is broken off.
    library.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # type: ignore[attr-defined]
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return library


@cache
def provider(model: str) -> str | None:
    try:
        return str(litellm().get_llm_provider(model)[1])
    except Exception:
        return None


def unknown(model: str) -> tuple[str, str]:
    return f"{model!r} names no provider that is known", "write PROVIDER/MODEL, for example openai/gpt-4o-mini"


def keyless(model: str) -> bool:
    """Whether a server of the user's own may speak this provider's dialect and want no key."""
    name = provider(model)
    return name == "openai" or name in litellm().openai_compatible_providers


def missing_keys(model: str) -> list[str]:
    """The environment variables with keys that a model's provider needs and that are not set."""
    found: dict[str, Any] = litellm().validate_environment(model)
    return [str(name) for name in found["missing_keys"] if not name.endswith("_API_BASE")]


def key_names(model: str) -> str:
    name = provider(model) or ""
    if missing := missing_keys(model):
        return (" or " if name == "gemini" else " and ").join(missing)
    start = name.replace("_", "").upper()
    names = [secret for secret, _ in _secrets() if secret.replace("_", "").startswith(start)]
    return " or ".join(names) or f"{start}_API_KEY"


def marks_cache(model: str) -> bool:
    """Whether prompts are cached only where they are marked so, as Anthropic's are wherever they run."""
    return provider(model) == "anthropic" or "claude" in model.lower()


@cache
def takes_tools(model: str) -> bool:
    try:
        return bool(litellm().supports_function_calling(model))
    except Exception:
        return False


@cache
def takes_n(model: str) -> bool:
    """Whether a request may ask for several samples: only if litellm lists the model, and `n` among what it takes."""
    try:
        return bool(window(model)) and "n" in litellm().get_supported_openai_params(model)
    except Exception:
        return False


@cache
def listed_price(model: str) -> Prices | None:
    if (provider(model) or "ollama").startswith("ollama"):  # litellm would ask the server, which has no prices
        return None
    try:
        info: dict[str, Any] = litellm().get_model_info(model)
    except Exception:
        return None
    fresh, output = info.get("input_cost_per_token") or 0.0, info.get("output_cost_per_token") or 0.0
    if not fresh and not output:
        return None
    cached, written = info.get("cache_read_input_token_cost"), info.get("cache_creation_input_token_cost")
    return Prices(fresh, cached or fresh, output, written)


@cache
def window(model: str) -> int | None:
    """Tokens of input that a model takes, as litellm lists it; None if it lists nothing."""
    if (provider(model) or "ollama").startswith("ollama"):
        return None
    try:
        info: dict[str, Any] = litellm().get_model_info(model)
    except Exception:
        return None
    return int(info["max_input_tokens"]) if info.get("max_input_tokens") else None


def cost(model: str, counted: Any) -> float | None:
    """By litellm, which knows what depends on more than three prices: cache writes, long prompts, tiers."""
    try:
        cost = sum(litellm().cost_per_token(model=model, usage_object=counted))
    except Exception:
        return None
    return float(cost) if cost > 0 else None


def plain(said: str) -> str:
    """A provider's error as one short line without keys in it."""
    for _, value in sorted(_secrets(), key=lambda secret: -len(secret[1])):
        said = said.replace(value, "[key]")
    said = re.sub(r"\b(sk|key)-[\w*.-]{4,}", "[key]", said)
    said = " ".join(said.partition("Traceback (most recent call last)")[0].split())
    said = re.sub(r"^((litellm\.)?\w+(Error|Exception)( - |: ))+", "", said)
    return said if len(said) <= 300 else said[:299] + "…"


def _secrets() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if re.search("KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS", name) and len(value) >= 6:
            yield name, value

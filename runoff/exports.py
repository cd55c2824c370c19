"""A run's trajectories in the formats of the field: ATIF, and what mini-swe-agent writes. Made from the log at any time.

ATIF is Harbor's Agent Trajectory Interchange Format, version 1.7 (its RFC 0001).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from runoff import __version__
from runoff.agent import log
from runoff.agent.log import Record
from runoff.agent.told import Turn, turns

Format = Literal["atif", "mini-swe-agent"]


def atif(run: str, name: str, taken: Sequence[Turn]) -> dict[str, Any]:
    """One trajectory as ATIF. What it was told before its first answer are steps of their own; what came back from a tool
    is the observation of the step that called it."""
    steps: list[dict[str, Any]] = []
    for turn in taken:
        for told in turn.told:
            if told.role == "tool" and steps and steps[-1]["source"] == "agent":
                results = steps[-1].setdefault("observation", {"results": []})["results"]
                results.append({"source_call_id": told.tools.get("call", ""), "content": told.text})
            else:
                steps.append({"source": "system" if told.role == "system" else "user", "message": told.text})
        step: dict[str, Any] = {
            "source": "agent",
            "model_name": turn.ask["request"]["model"],
            "message": turn.reply.text,
        }
        if calls := turn.reply.tools.get("calls"):
            step["tool_calls"] = [
                {"tool_call_id": call["id"], "function_name": call["name"], "arguments": _arguments(call["arguments"])}
                for call in calls
            ]
        step["metrics"] = _metrics(turn.ask)
        step["extra"] = {"path": turn.ask["path"]}
        steps.append(step)
    totals = [step["metrics"] for step in steps if "metrics" in step]
    cost = [metrics["cost_usd"] for metrics in totals if metrics.get("cost_usd") is not None]
    return {
        "schema_version": "ATIF-v1.7",
        "session_id": run,
        "trajectory_id": name,
        "agent": {"name": "runoff", "version": __version__, "model_name": taken[0].ask["request"]["model"]},
        "steps": [{"step_id": n} | step for n, step in enumerate(steps, 1)],
        "final_metrics": {
            "total_prompt_tokens": sum(metrics["prompt_tokens"] for metrics in totals),
            "total_completion_tokens": sum(metrics["completion_tokens"] for metrics in totals),
            "total_cached_tokens": sum(metrics["cached_tokens"] for metrics in totals),
            "total_steps": len(steps),
        }
        | ({"total_cost_usd": sum(cost)} if len(cost) == len(totals) else {}),
    }


def mini_swe_agent(instance: str, name: str, taken: Sequence[Turn], submission: str) -> dict[str, Any]:
    """One trajectory as mini-swe-agent's `….traj.json` (format mini-swe-agent-1.1)."""
    messages = []
    for turn in taken:
        messages += [{"role": told.role, "content": told.text} | dict(told.tools) for told in turn.told]
        messages.append(
            {"role": "assistant", "content": turn.reply.text, "extra": {"usage": turn.ask["result"].get("usage")}}
        )
    costs = [turn.ask["result"].get("cost") or 0.0 for turn in taken]
    info = {
        "exit_status": "Submitted" if submission else "no patch",
        "submission": submission,
        "model_stats": {"instance_cost": sum(costs), "api_calls": len(taken)},
        "config": {"agent": {"name": f"runoff {name}"}, "model": {"model_name": taken[0].ask["request"]["model"]}},
    }
    return {"trajectory_format": "mini-swe-agent-1.1", "instance_id": instance, "info": info, "messages": messages}


def export(run: Path, instance: str, form: Format) -> Iterator[tuple[str, dict[str, Any]]]:
    """An instance's trajectories, each with its name."""
    records = list(log.read(run / "log" / f"{instance}.jsonl"))
    ends = {record["t"]: record["result"] for record in records if record["kind"] == "end"}
    for name, taken in turns(records).items():
        if form == "atif":
            yield name, atif(f"{run.name}/{instance}", name, taken)
        else:
            patch = ((ends.get(name) or {}).get("value") or {}).get("patch") or ""
            yield name, mini_swe_agent(instance, name, taken, patch if isinstance(patch, str) else "")


def _arguments(text: Any) -> dict[str, Any]:
    """A call's arguments as a model wrote them, which may be no JSON object."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"text": text}


def _metrics(ask: Record) -> dict[str, Any]:
    usage = ask["result"].get("usage") or {}
    said = {
        "prompt_tokens": usage.get("input", 0),
        "completion_tokens": usage.get("output", 0),
        "cached_tokens": usage.get("cached", 0),
    }
    return said | ({"cost_usd": ask["result"]["cost"]} if ask["result"].get("cost") is not None else {})

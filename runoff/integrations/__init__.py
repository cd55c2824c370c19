"""runoff's sandboxes for other projects: mini_swe_agent.py, inspect_ai.py. Each needs the extra of its name."""

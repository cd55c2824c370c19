"""runoff resolves software issues with language models: many trajectories in real sandboxes, votes, a verifier, a run-off."""

__version__ = "0.1.0"

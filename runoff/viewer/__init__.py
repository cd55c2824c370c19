"""A window on runs: served on this machine alone, or one file. A view of the logs that never writes into a run."""

"""The report over runs: what became of them by grades or labels, where points were lost, and what it took. Nothing is asked or run."""

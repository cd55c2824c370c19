"""Whether patches are right. `python -m runoff.grading` is the only process that opens answers."""

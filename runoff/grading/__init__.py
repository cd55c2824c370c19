"""Grading: whether a patch resolves its problem. Its process is the only one that opens an answer."""

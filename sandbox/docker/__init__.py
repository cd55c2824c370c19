"""Sandboxes on a Docker engine, where bubblewrap cannot run: a state is an image. See backend.py."""

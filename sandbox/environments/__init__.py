"""How a repository becomes layers: interpreter, dependencies, the repository sealed and installed. See builder.py."""

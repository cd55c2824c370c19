"""GitHub: an issue by its address, what it says, who claims it, and the repository at the right commit."""

"""The demonstration: release pairs resolved here with a model's recorded answers, each graded by a process apart.

answers/<id>.jsonl      the model's answers to a pair of runoff.releases, recorded: the pairs that are shown are those that have them
"""

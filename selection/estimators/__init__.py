"""What a selection is worth, by labels that no selection reads: pure functions, each with the source of its formula."""

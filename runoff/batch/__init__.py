"""`runoff bench`: a dataset's problems solved in batch, each a unit that stops no other."""

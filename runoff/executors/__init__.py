"""Where a run's instances are solved when one machine is not enough: a head that keeps the record, a worker a node."""

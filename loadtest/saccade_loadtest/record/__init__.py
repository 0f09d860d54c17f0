"""What happened: the record of a run, its histograms, the servers' own metrics."""

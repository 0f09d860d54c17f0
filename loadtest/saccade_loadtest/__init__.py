"""Load tests of Saccade: open-loop arrivals, and a verdict on a p99 objective that one can trust."""

"""What that shows: intervals, SLO files, the verdict, comparisons, the capacity search."""

"""Shadow traffic: a sampled share of images goes to a candidate predictor too, and the two answers are compared."""

"""The frame cache: what may be answered without asking the predictor, and when that is not to be trusted."""

"""The predictor: serves the models of a Triton model repository over V2, with dynamic batching."""

"""What waits for a model, and in which form it is handed over."""

"""The transformer: images in, detections out; calls the predictor over V2."""

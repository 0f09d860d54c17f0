"""From an exported ONNX file to what the predictor serves."""

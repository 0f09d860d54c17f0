"""From the bytes of an encoded image to the tensor a model reads."""

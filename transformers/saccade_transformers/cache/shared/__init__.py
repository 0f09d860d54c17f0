"""The frame cache that several transformers share: answers, and the word on what is given to a camera, in Redis."""

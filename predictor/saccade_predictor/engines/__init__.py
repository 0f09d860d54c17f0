"""Engines: what runs a batch. The Protocols stand in ``engine.py``, one adapter a file beside it."""

"""What an answer is: one file per task, all behind the Protocol in ``task.py``."""

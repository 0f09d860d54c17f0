"""What a person types, and what the commands have in common."""

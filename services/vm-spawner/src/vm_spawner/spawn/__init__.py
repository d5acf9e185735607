"""A machine's way up and down: steps that can each be undone, whoever dies in between."""

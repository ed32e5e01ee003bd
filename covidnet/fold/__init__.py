"""One run: its set-up, its steps, its folder, resuming it, and what its checkpoint needs to be used."""

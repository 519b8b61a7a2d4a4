"""What the commands share: the console, their flags, and what flags add to a run."""

"""What is kept of a run: checkpoints, a user's own values, logs. Plain state in and out; nothing here knows a Trainer."""

"""What the commands share: the console, the flags of train, and what they ask for."""

"""Many runs and many machines, around the trainer: see docs/howto."""

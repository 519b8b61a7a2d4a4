"""The tape's memory. Has no Python interface."""

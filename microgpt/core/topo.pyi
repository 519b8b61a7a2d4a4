"""The order of the nodes for backward. Has no Python interface."""

"""The lock of the tape. Has no Python interface."""

"""The layers of the model as nodes on the tape. Has no Python interface."""

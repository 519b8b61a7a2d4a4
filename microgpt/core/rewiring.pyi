"""A second __init__ of a Value. Has no Python interface."""

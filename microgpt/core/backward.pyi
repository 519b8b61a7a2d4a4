"""Sorting, expanding and differentiating a graph. Has no Python interface."""

"""Predict the memory, operations, messages and time of a training step before it is paid for."""

"""Faults that runs must survive, and the trials that inject them; main.py has the command line."""

"""Workloads that are measured beside their peers, in turns; main.py has the command line."""

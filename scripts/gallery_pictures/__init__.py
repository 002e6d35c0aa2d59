"""Pictures of docs/attention.md and docs/demonstrations.md; main.py has the command line."""

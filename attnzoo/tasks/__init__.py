"""What a batch is, its loss and its metrics; one task a file."""

"""Training: the loop, its optimizer, and checkpoints from which a run resumes."""

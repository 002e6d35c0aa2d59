"""Config in, run directory out: the loop, its optimizer, and what makes a run survive."""

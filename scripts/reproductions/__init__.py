"""Claims of papers, measured: `scripts/reproduce.py`.

``claim`` says what a claim is, ``claims`` holds one module for each group of them, ``store`` keeps
what was measured, ``report`` makes the page of verdicts from it.
"""

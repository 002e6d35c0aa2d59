"""Ids that mean the same in every vocabulary of the zoo."""

PAD, BOS, EOS, UNK = 0, 1, 2, 3

"""One file per implementation of attention; ``attnzoo.ops.choice`` picks among them.

All have one signature: ``attend(q, k, v, settings, dropout_rate, dropout_key)`` returns the output
``B T N Hv`` in q's dtype and the log-sum-exp ``B N T`` in float32 (float64 in float64).
"""

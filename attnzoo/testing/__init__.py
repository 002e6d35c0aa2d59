"""The contract kit: ``check(attention, sizes=...)`` tests any attention against attnzoo's contract.

It imports no attention of ours: attentions from any library are checked in the same way.
"""

from attnzoo.testing.kit import PROPERTIES, ContractError, Report, Result, check, report
from attnzoo.testing.subject import FunctionSizes, ModuleSizes

__all__ = [
    "PROPERTIES",
    "ContractError",
    "FunctionSizes",
    "ModuleSizes",
    "Report",
    "Result",
    "check",
    "report",
]

"""The contract kit: ``check(attention, sizes=...)`` holds any attention to the rules of this zoo.

It imports no mechanism of ours: yours, from any library, is checked in the same way.
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

"""The commit message of f606b77f1a, claim by claim.

`CLAIMS` has them all, by number; `settle` and `settle_all` ask the running kernel.
"""

from __future__ import annotations

from prctlmm_lab.experiments.claims import (
    calling,
    races,
    requirements,
    uses_by_brk,
    uses_by_others,
    uses_in_maps,
    uses_in_proc,
)
from prctlmm_lab.experiments.claims.claim import Claim, Finding, Verdict, in_order, settle
from prctlmm_lab.experiments.claims.settling import chosen, settle_all

_MODULES = (
    calling, races, requirements, uses_by_brk, uses_by_others, uses_in_maps, uses_in_proc
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = in_order(claim for module in _MODULES for claim in module.CLAIMS)
CLAIM: dict[str, Claim] = {claim.id: claim for claim in CLAIMS}

__all__ = [
    "CLAIM", "CLAIMS", "Claim", "Finding", "Verdict", "chosen", "settle", "settle_all",
]  # fmt: skip

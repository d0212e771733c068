"""Exercises: each with its prompt, its check, its hints and its solution in one place; practice."""

from prctlmm_lab.course.exercises import check, hint, solution
from prctlmm_lab.course.practising import practice

__all__ = ["check", "hint", "practice", "solution"]

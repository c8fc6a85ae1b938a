"""Strategies of horizontal learning: one file each, made of parts that can be swapped one by one."""

from unseen.learners.horizontal.strategies.registry import STRATEGIES, parameters, strategy

__all__ = ["STRATEGIES", "parameters", "strategy"]

"""kvtier: a trustworthy KV cache for the engines of a node; this package is the engines' side."""
from kvtier.library import version

__all__ = ['version']

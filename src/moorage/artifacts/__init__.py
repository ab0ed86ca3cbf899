"""Bytes of blobs as immutable objects, on the local disk or in a bucket. Only this package knows obstore.

An object is written once, whole or not at all, and never changed, so nothing is ever renamed or locked; what it belongs to is the store's business.
"""

from moorage.artifacts.objects import PIECE, Artifacts

__all__ = ["PIECE", "Artifacts"]

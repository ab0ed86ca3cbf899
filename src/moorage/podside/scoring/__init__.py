"""The scoring server: runs the user's `score.py` on the user's own Python, 3.10 or newer, without Moorage installed.

Copied into pods as `moorage_scoring`, so that it imports nothing of this project and only relatively within itself.
"""

"""CLI v2 YAML documents: text with positions -> checked values -> bodies of the ARM API.

Nothing here opens a file or a connection: what a document needs from outside (code, models, conda files) is listed by `uses`, found by the
caller, and handed back to `body`.
"""

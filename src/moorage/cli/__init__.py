"""The `moorage` command: where the parts are put together."""

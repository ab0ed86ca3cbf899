"""The `az` shim: the command lines of `az ml` and its neighbours, answered by Moorage."""

"""Who is calling and what that credential may do: issue, verify, decide. Every comparison of secrets is constant-time."""

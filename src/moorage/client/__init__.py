"""The REST client the command line uses: one workspace, HTTP only, and the same API that the studio and the SDK speak."""

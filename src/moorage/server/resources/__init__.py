"""One module per ARM type; each ends in a table `ROUTES` that `server.parts` collects."""

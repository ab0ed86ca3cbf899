"""The API's two-way streams: exec, attach and port-forward over WebSocket and SPDY."""

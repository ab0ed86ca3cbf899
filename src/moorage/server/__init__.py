"""The workspace service: the ARM-shaped REST API over the store, the blob facade, and the gateway's server side."""

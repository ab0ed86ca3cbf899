"""The component image, and how it is made: by Docker from `Dockerfile`, or without it by `scripts/image`. What both agree on stands in `component.toml`."""

"""The unmodified azure-ai-ml against the whole stack, over HTTPS with our private authority."""

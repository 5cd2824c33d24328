"""Ollama's own interfaces: what clients send to them is forwarded unchanged, and recorded."""

"""HTTP with Ollama: requests, the bytes of its answers, and their meaning."""

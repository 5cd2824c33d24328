"""What is spoken with Ollama: HTTP, in time, and the answer read from its bytes."""

"""What Ollama's interfaces mean: requests, answers and errors, a file a provider."""

"""What Ollama's interfaces mean: what a request asks, an answer says, an error looks like."""

"""Memory that request bodies are received into and engines read from: one arena per process."""

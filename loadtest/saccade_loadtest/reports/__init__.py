"""What a person or CI gets to see: HTML, figures, tables, JSON, JUnit."""

"""The OpenAI API: its requests as models, its answers as text."""

"""The exact text a chat model reads: chat templates, and Llama 2's own format."""

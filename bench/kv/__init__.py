"""What the KV pool is worth: speeds beside the machine's own, time to first token, cached share, slow-down."""

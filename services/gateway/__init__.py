"""The gateway: where agent programs come in. HTTP in the shape of the OpenAI API, and gRPC for the SDK."""

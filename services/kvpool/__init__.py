"""The KV pool of a host: KV blocks outside its engines, in shared memory and on disk."""

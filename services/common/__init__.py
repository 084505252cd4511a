"""What every service shares: time, settings, errors, registry, state store, RPC bootstrap, telemetry."""

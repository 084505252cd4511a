"""Workloads, drivers, measurements and reports. Nothing here is imported by the services or by the SDK."""

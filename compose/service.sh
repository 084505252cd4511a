#!/bin/sh
# The entry point: run a service. Only inside the container is its address known, which it tells the others.
LEGATO_CLUSTER__HOST="${LEGATO_CLUSTER__HOST:-$(hostname -i | cut -d ' ' -f 1)}"
export LEGATO_CLUSTER__HOST
exec python -m "services.$1"

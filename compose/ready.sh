#!/bin/bash
# The health check: does /readyz on port $1 of this container say yes? No Python, which would take longer than all else.
address=$(hostname -i | cut -d ' ' -f 1):$1
ask() { printf 'GET /readyz HTTP/1.0\r\n\r\n'; }
if [ -z "$LEGATO_TLS__CA_FILE" ]; then
  exec 3<>"/dev/tcp/${address/://}" || exit 1
  ask >&3
else
  exec 3< <(ask | openssl s_client -quiet -connect "$address" 2>/dev/null)
fi
read -r -t 2 _ status _ <&3
[ "$status" = 200 ]

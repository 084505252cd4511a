#!/bin/bash
# The health check: does /readyz on port $1 of this container say yes? No Python, which would take longer than all else.
exec 3<>"/dev/tcp/$(hostname -i | cut -d ' ' -f 1)/$1" || exit 1
printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
read -r -t 2 _ status _ <&3
[ "$status" = 200 ]

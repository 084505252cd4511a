#!/bin/sh
# secrets.sh DIR: random secrets for compose.yaml, made once. The directory is its owner's alone; the files in it can be
# read by the containers that they are mounted into, whatever user those run as.
set -eu
umask 077
mkdir -p "$1"
chmod 700 "$1"
cd "$1"
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
put() { # name; contents from stdin
  cat >"$1.new"
  chmod 444 "$1.new"
  mv "$1.new" "$1"
}
[ -e redis_password ] || random | put redis_password
[ -e api_keys ] || random | put api_keys
[ -e grafana_password ] || random | put grafana_password
[ -e salt ] || random | put salt
put redis.conf <<EOF
requirepass $(cat redis_password)
dir /data
appendonly yes
save ""
EOF
put legato.toml <<EOF
[state]
password = "$(cat redis_password)"
[gateway]
salt_secret = "$(cat salt)"
api_keys_file = "/run/secrets/api_keys"
EOF

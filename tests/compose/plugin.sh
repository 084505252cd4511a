#!/bin/sh
# plugin.sh FILE: docker compose v2 out of Debian 13's package, by this machine's own Debian mirror, into FILE. Nothing is
# installed.
set -eu
target=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' | sort | head -n 1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$(dirname "$target")"
echo "deb [signed-by=$keys] $site trixie main" >"$work/sources.list"
set -- -qq -o "Dir::State=$work/state" -o "Dir::Cache=$work/cache" -o "Dir::Etc::sourcelist=$work/sources.list" \
  -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root
apt-get "$@" update
cd "$work"
apt-get "$@" download docker-compose
dpkg -x docker-compose_*.deb package
cp package/usr/libexec/docker/cli-plugins/docker-compose "$target"

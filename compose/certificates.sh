#!/bin/sh
# certificates.sh NAME,...: new identities for tls.yaml, by an authority that is made once. What each service may read goes
# to a directory of its own, which is a volume that no other service has.
set -eu
python -m legato certs /certs/authority --names "$1" --renew
hand() { # service, the user that it runs as; services that run look at these files, so each is whole or not there
  for file in "$1.key" "$1.pem" ca.pem; do
    install --owner "$2" --group "$2" --mode 400 "/certs/authority/$file" "/certs/$1/$file.new"
    mv -f "/certs/$1/$file.new" "/certs/$1/$file"
  done
}
for service in etcd gateway scheduler workflow kvpool worker; do hand $service 10001; done
hand redis 999
hand operator 65534

#!/bin/sh
# k3s-server.sh SHARE ADDRESS ADDRESS: a k3s server without its own network parts, and Warren as its add-on.
set -eu
share=$1 address=$2
here=$(dirname "$0")
sh "$here/k3s-files.sh" "$share"
[ -e "$share/bundle/warren.yaml" ] || {
	echo "the bundle has no manifests; use WARREN_MODE=standalone" >&2
	exit 1
}
sh "$here/service.sh" k3s /usr/local/bin/k3s server --node-ip "$address" --flannel-backend=none \
	--disable-network-policy --disable-kube-proxy --disable=coredns,traefik,servicelb

#!/bin/sh
# connectivity.sh NODES: on the server, waits until it has tunnels to all others of so many nodes, and shows who reaches whom.
set -eu
nodes=$1
warren=/usr/local/bin/warren
tunnels() {
	$warren status --output json 2>/dev/null | grep -c '"handshakeSeconds": [0-9]' || true
}
tries=0
until [ "$(tunnels)" -ge $((nodes - 1)) ]; do
	tries=$((tries + 1))
	[ $tries -le 120 ] || {
		$warren status
		echo "there are not $((nodes - 1)) tunnels after two minutes" >&2
		exit 1
	}
	sleep 1
done
# That of k3s, where k3s is the server; else the command finds Warren's own.
[ ! -e /etc/rancher/k3s/k3s.yaml ] || export KUBECONFIG=/etc/rancher/k3s/k3s.yaml
exec $warren connectivity

#!/bin/sh
# connectivity.sh NODES: waits until this node has tunnels to all others of so many nodes, and shows who reaches whom.
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
if $warren connectivity --help >/dev/null 2>&1; then
	exec $warren connectivity
fi
exec $warren status

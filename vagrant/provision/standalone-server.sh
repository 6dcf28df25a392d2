#!/bin/sh
# standalone-server.sh SHARE ADDRESS ADDRESS: Warren's own control plane, and a node beside it.
set -eu
share=$1 address=$2
here=$(dirname "$0")
token=/var/lib/warren/server/agent-token
sh "$here/bundle.sh" "$share"
sh "$here/service.sh" warren-server /usr/local/bin/warren server --advertise-address "$address"
tries=0
until [ -s "$token" ]; do
	tries=$((tries + 1))
	[ $tries -le 60 ] || {
		echo "the server made no token within a minute; its log says why" >&2
		exit 1
	}
	sleep 1
done
(umask 077 && cp "$token" "$share/token")
sh "$here/join.sh" "$share" "$address"

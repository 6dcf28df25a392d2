#!/bin/sh
# start.sh ROLE: starts what `warren install ROLE` installed, on a machine where nobody starts services.
set -eu
role=$1
here=$(dirname "$0")
if [ -d /run/systemd/system ] || [ -e /run/openrc/softlevel ]; then
	exit 0
fi
if [ "$role" = server ]; then
	sh "$here/service.sh" warren-server /usr/local/bin/warren server --config /etc/warren/config.yaml
fi
sh "$here/service.sh" warren-agent /usr/local/bin/warren agent

#!/bin/sh
# standalone-agent.sh SHARE ADDRESS SERVER: a node of the server's cluster, by SHARE/token. Its address is not said: the
# agent takes the one that reaches the server, and not that of the default route.
set -eu
share=$1 server=$3
here=$(dirname "$0")
sh "$here/bundle.sh" "$share"
sh "$here/join.sh" "$share" "$server"

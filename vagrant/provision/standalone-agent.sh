#!/bin/sh
# standalone-agent.sh SHARE ADDRESS SERVER: a node of the server's cluster, by SHARE/token. Its address is not said: the
# agent takes the one that reaches the server, and not that of the default route.
set -eu
share=$1 server=$3
here=$(dirname "$0")
(umask 077 && mkdir -p /etc/warren && cp "$share/token" /etc/warren/token)
rm "$share/token"
sh "$here/bundle.sh" "$share" agent --server "https://$server:6443" --token-file /etc/warren/token
sh "$here/start.sh" agent

#!/bin/sh
# standalone-server.sh SHARE ADDRESS ADDRESS: Warren's own control plane, and a node beside it.
set -eu
share=$1 address=$2
here=$(dirname "$0")
sh "$here/bundle.sh" "$share" server --advertise-address "$address" --node-ip "$address"
sh "$here/start.sh" server

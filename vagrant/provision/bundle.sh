#!/bin/sh
# bundle.sh SHARE [ARGS]: unpacks SHARE/bundle.tar.gz and runs its install.sh with ARGS.
set -eu
share=$1
shift
rm -rf "$share/bundle"
mkdir "$share/bundle"
tar -C "$share/bundle" --strip-components=1 -xzf "$share/bundle.tar.gz"
sh "$share/bundle/install.sh" "$@"
